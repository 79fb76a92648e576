"""A caller's requests: counted, suspected, and closed once."""

from __future__ import annotations

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion, GenerateAnswer
from raydsinfer.errors import EngineError, WorkerGroupError
from raydsinfer.rows.request import Request
from raydsinfer.serving.caller import Caller, Reply
from raydsinfer.serving.failures import GangFailed
from raydsinfer.serving.suspects import Try


def make(num: int) -> tuple[Caller, dict[int, Reply]]:
    found: dict[int, Reply] = {}
    rows = [Request(index=key, token_ids=(1,), prompt="a", generation=GenerationConfig()) for key in range(num)]
    return Caller(rows, lambda request, reply: found.update({request.index: reply})), found


def failed(*on_gang: int, life: int | None = 0, num_others: int = 0, out_of_memory: bool = False) -> GangFailed:
    cause = EngineError(doing="generate", reason="it broke", out_of_memory=out_of_memory)
    error = WorkerGroupError(gang="g", phase="generate", causes={0: cause})
    return GangFailed(error, on_gang, len(on_gang) + num_others, life)


def indices(requests: list[Request]) -> list[int]:
    return [request.index for request in requests]


def test_two_deaths_make_a_suspect_and_one_failure_in_step_does() -> None:
    caller, _ = make(5)
    caller.blame(failed(0, 1, life=0, num_others=3))
    assert indices(caller.unsuspected()) == [0, 1, 2, 3, 4]
    caller.blame(failed(1, 2, life=1, num_others=3))
    assert indices(caller.unsuspected()) == [0, 2, 3, 4]
    caller.blame(failed(3, 4, life=None, num_others=3))
    assert indices(caller.unsuspected()) == [0, 2]
    assert caller.record(1).lives == {0, 1}


def test_who_failed_with_nobody_elses_is_known_to_be_bad() -> None:
    caller, _ = make(4)
    for life in range(2):
        caller.blame(failed(0, 1, 2, 3, life=life))
    assert caller.bisection(2).step() == Try((0, 1))  # not the whole again
    caller.blame(failed(0, 1, 2, 3, life=2, num_others=1))
    assert caller.bisection(2).step() == Try((0, 1, 2, 3))


def test_those_too_large_for_the_memory_come_first() -> None:
    caller, _ = make(4)
    for life in range(2):
        caller.blame(failed(0, 1, life=life))
    caller.note_limit([2, 3], "generate", None)
    caller.note_limit([2, 3], "generate", 2)
    caller.note_limit([2, 3], "advance", 4)
    assert caller.too_large() == []
    caller.blame(failed(3, life=None, out_of_memory=True))
    assert caller.too_large() == [3]
    assert caller.bisection(2).rows == [3]
    assert caller.record(3).limits == {"generate": None, "advance": 4}


def test_a_reply_says_how_often_it_took() -> None:
    caller, found = make(3)
    caller.count_attempts([0, 1])
    caller.count_attempts([1])
    caller.take(caller.open_of([0])[0], GenerateAnswer(key=0, completions=(Completion((1,), "stop"),)))
    caller.take(caller.open_of([2])[0], GenerateAnswer(key=2, error="too long"))
    for life in range(2):
        caller.blame(failed(1, life=life))
    caller.convict(1)
    assert caller.open_of() == []
    assert {key: reply.num_attempts for key, reply in found.items()} == {0: 2, 1: 2, 2: 1}
    assert str(found[2].error) == "engine: too long"
    words = "gang: the gang died 2 times while it worked on this row alone; rank 0: EngineError: generate: it broke."
    assert str(found[1].error) == words
