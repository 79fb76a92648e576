"""The runners, with an engine that needs no model: token i of an answer is the prompt's sum plus i."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raydsinfer.bench.throughput.runners import run_continuous, run_static, static_batches, statistics
from raydsinfer.bench.workloads import BenchRequest, mixed
from raydsinfer.engines.base import Advance, Completion, GenerateAnswer, GenerateBatch, GenerateRequest
from raydsinfer.errors import EngineError


def answer_to(prompt: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    return tuple(sum(prompt) + at for at in range(num_tokens))


class Adding:
    """Both kinds of engine; takes two requests at a time, and returns from `advance` with what ended."""

    def __init__(self, short_by: int = 0, refuse: int | None = None, lose: int | None = None) -> None:
        self.short_by, self.refuse, self.lose = short_by, refuse, lose
        self.waiting: list[GenerateRequest] = []
        self.batches: list[int] = []

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        self.batches.append(len(batch.prompts))
        new = batch.generation.max_new_tokens
        assert batch.generation.min_new_tokens == new
        assert not batch.generation.do_sample
        return [[Completion(answer_to(prompt, new - self.short_by), "length")] for prompt in batch.prompts]

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        self.waiting += requests
        ending, self.waiting = self.waiting[:2][::-1], self.waiting[2:]
        answers = []
        for request in ending:
            if request.key == self.refuse:
                answers.append(GenerateAnswer(key=request.key, error="too long"))
            elif request.key != self.lose:
                new = request.generation.max_new_tokens - self.short_by
                completion = Completion(answer_to(request.token_ids, new), "length")
                answers.append(GenerateAnswer(key=request.key, completions=(completion,)))
        return Advance(answers=tuple(answers), num_waiting=len(self.waiting), num_steps=num_steps)


REQUESTS = [BenchRequest((1, 2), 4), BenchRequest((7,), 9), BenchRequest((3, 3, 3), 2)]
EXPECTED = tuple(answer_to(request.prompt, request.new_tokens) for request in REQUESTS)


def test_static_batches_are_of_like_lengths() -> None:
    assert static_batches(REQUESTS, 2) == [[2, 0], [1]]
    requests = mixed().requests
    batches = static_batches(requests, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(512))
    lengths = [len(requests[index].prompt) for batch in batches for index in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_static_batch_runs_to_its_longest_row_and_rows_are_cut() -> None:
    engine = Adding()
    answers = run_static(engine, REQUESTS, 2)
    assert answers.token_ids == EXPECTED
    assert answers.num_steps == 4 + 9
    assert engine.batches == [2, 1]


def test_continuous_answers_come_in_any_order() -> None:
    answers = run_continuous(Adding(), REQUESTS)
    assert answers.token_ids == EXPECTED
    assert answers.num_steps == 2 * 16


def test_wrong_answers_are_no_figures() -> None:
    with pytest.raises(EngineError, match="request 0 has 3 new tokens instead of 4"):
        run_continuous(Adding(short_by=1), REQUESTS)
    with pytest.raises(EngineError, match="has 8 new tokens instead of 9"):
        run_static(Adding(short_by=1), REQUESTS[1:2], 2)
    with pytest.raises(EngineError, match="request 1: too long"):
        run_continuous(Adding(refuse=1), REQUESTS)
    with pytest.raises(EngineError, match="request 2 has 0 new tokens"):
        run_continuous(Adding(lose=2), REQUESTS)


def test_an_engine_may_count_or_not() -> None:
    class Counting:
        def statistics(self) -> dict[str, float]:
            return {"steps": 3}

    assert statistics(Adding()) == {}
    assert statistics(Counting()) == {"steps": 3.0}
