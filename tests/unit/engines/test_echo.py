from __future__ import annotations

import pytest

from raydsinfer.config import EchoFault, EngineConfig, GenerationConfig
from raydsinfer.engines import create_engine
from raydsinfer.engines.base import Completion, EngineSpec, GenerateBatch, RankContext
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.errors import EngineError


def echo(world_rank: int = 0, **settings: object) -> EchoEngine:
    spec = EngineSpec(model="none", config=EngineConfig(engine="echo", **settings))
    engine = create_engine(spec, RankContext(world_rank=world_rank, world_size=2))
    assert isinstance(engine, EchoEngine)
    return engine


def batch(*texts: str, **settings: object) -> GenerateBatch:
    return GenerateBatch(prompts=[list(t.encode()) for t in texts], generation=GenerationConfig(**settings))


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
