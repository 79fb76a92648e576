from __future__ import annotations

import pytest

from raydsinfer.config import EchoFault, EngineConfig, GenerationConfig
from raydsinfer.engines import create_engine
from raydsinfer.engines.base import (
    Advance,
    Completion,
    EngineSpec,
    GenerateBatch,
    GenerateRequest,
    LoadReport,
    RankContext,
)
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.errors import EngineError


def echo(world_rank: int = 0, **settings: object) -> EchoEngine:
    spec = EngineSpec(model="none", config=EngineConfig(engine="echo", **settings))
    engine = create_engine(spec, RankContext(world_rank=world_rank, world_size=2))
    assert isinstance(engine, EchoEngine)
    return engine


def batch(*texts: str, **settings: object) -> GenerateBatch:
    return GenerateBatch(prompts=[list(t.encode()) for t in texts], generation=GenerationConfig(**settings))


def requests(*texts: str, **settings: object) -> list[GenerateRequest]:
    generation = GenerationConfig(**settings)
    return [GenerateRequest(key=key, token_ids=text.encode(), generation=generation) for key, text in enumerate(texts)]


def keys(advance: Advance) -> list[int]:
    return [answer.key for answer in advance.answers]


def test_answers_with_the_prompt() -> None:
    assert echo().generate(batch("abc", "abcdef", max_new_tokens=4)) == [
        [Completion(tuple(b"abc"), "stop")],
        [Completion(tuple(b"abcd"), "length")],
    ]


def test_several_sequences() -> None:
    answers = echo().generate(batch("a", num_return_sequences=3, do_sample=True))
    assert [len(row) for row in answers] == [3]


def test_fails_where_it_is_told_to() -> None:
    fault = EchoFault(rank=1, prompt_contains="bad")
    echo(0, echo_fault=fault).generate(batch("bad"))
    echo(1, echo_fault=fault).generate(batch("good"))
    with pytest.raises(EngineError, match="told to fail on rank 1"):
        echo(1, echo_fault=fault).generate(batch("good", "a bad one"))
    with pytest.raises(EngineError, match="load"):
        echo(0, echo_fault=EchoFault(when="load")).load()


def test_says_how_it_batches() -> None:
    assert echo().load() == echo(batching="static").load() == LoadReport(mode="echo")
    report = echo(batching="continuous", max_running=3, max_tokens=10).load()
    assert (report.batching, report.max_running, report.num_kv_tokens) == ("continuous", 3, 30)


def test_short_requests_leave_before_long_ones() -> None:
    engine = echo(batching="continuous", max_running=2)
    first = engine.advance(requests("abcdef", "ab", "abc"), num_steps=3)
    assert (keys(first), first.num_running, first.num_waiting, first.num_steps) == ([1], 2, 0, 3)
    rest = engine.advance([], num_steps=100)
    assert (keys(rest), rest.num_running, rest.num_steps) == ([2, 0], 0, 3)
    assert rest.answers[1].completions == (Completion(tuple(b"abcdef"), "stop"),)
    assert engine.advance([], num_steps=5) == Advance()


def test_each_waits_for_a_place_in_order() -> None:
    engine = echo(batching="continuous", max_running=1)
    advance = engine.advance(requests("abc", "a", "ab"), num_steps=4)
    assert (keys(advance), advance.num_running, advance.num_waiting) == ([0, 1], 0, 1)
    assert keys(engine.advance([], num_steps=2)) == [2]


def test_settings_of_a_request() -> None:
    engine = echo(batching="continuous")
    asked = requests("abcd", max_new_tokens=3, num_return_sequences=2, do_sample=True, return_logprobs=True)
    (answer,) = engine.advance(asked, num_steps=9).answers
    assert answer.completions == (Completion(tuple(b"abc"), "length", (0.0, 0.0, 0.0)),) * 2


def test_a_request_that_never_fits_is_answered_with_the_reason() -> None:
    engine = echo(batching="continuous", kv_cache_bytes=8)
    advance = engine.advance(requests("abcd", "ab", max_new_tokens=5), num_steps=9)
    assert [(answer.key, bool(answer.error)) for answer in advance.answers] == [(0, True), (1, False)]
    assert "needs 9 tokens of the KV cache, which holds 8" in advance.answers[0].error


def test_a_failure_loses_what_was_not_answered() -> None:
    engine = echo(batching="continuous", echo_fault=EchoFault(prompt_contains="bad"))
    with pytest.raises(EngineError, match="told to fail"):
        engine.advance(requests("good", "bad", "good"), num_steps=1)
    assert engine.advance([], num_steps=9) == Advance()
    assert keys(engine.advance(requests("fine"), num_steps=9)) == [0]
