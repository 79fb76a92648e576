"""The ledger: each request is sent once and answered once, whatever the engine does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Advance, GenerateAnswer, GenerateRequest
from raydsinfer.errors import EngineError
from raydsinfer.serving.ledger import Dropped, Ledger


def requests(num: int) -> list[GenerateRequest]:
    return [GenerateRequest(key=key, token_ids=(key,), generation=GenerationConfig()) for key in range(num)]


def answers(keys: list[int], num_running: int = 1) -> Advance:
    return Advance(answers=tuple(GenerateAnswer(key=key) for key in keys), num_running=num_running)


@given(sizes=st.lists(st.integers(0, 5), max_size=6), data=st.data())
def test_every_owner_gets_its_own_answers_once(sizes: list[int], data: st.DataObject) -> None:
    ledger: Ledger[str] = Ledger()
    got: dict[str, list[int]] = {f"owner {owner}": [] for owner in range(len(sizes))}
    in_engine: list[int] = []
    for owner, size in enumerate(sizes):
        ledger.add(requests(size), f"owner {owner}")
        if data.draw(st.booleans()):
            in_engine += [request.key for request in ledger.take_unsent()]
        done = data.draw(st.lists(st.sampled_from(in_engine), unique=True)) if in_engine else []
        in_engine = [key for key in in_engine if key not in done]
        for whose, answer in ledger.settle(answers(done)):
            got[whose].append(answer.key)
    in_engine += [request.key for request in ledger.take_unsent()]
    assert len(set(in_engine)) == len(in_engine) == ledger.num_unanswered
    for whose, answer in ledger.settle(answers(in_engine, num_running=0)):
        got[whose].append(answer.key)
    assert [sorted(keys) for keys in got.values()] == [list(range(size)) for size in sizes]
    assert ledger.num_unanswered == 0


@pytest.mark.parametrize("keys", [[7], [0, 0]])
def test_answers_that_nobody_waits_for_are_an_error(keys: list[int]) -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add(requests(2), "a")
    ledger.take_unsent()
    with pytest.raises(EngineError, match="nobody asks, or answered it twice"):
        ledger.settle(answers(keys))
    assert ledger.num_unanswered == 2


def test_an_engine_that_forgets_requests_is_told_so() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add(requests(2), "a")
    ledger.take_unsent()
    ledger.add(requests(1), "b")
    with pytest.raises(EngineError, match="left 1 requests unanswered"):
        ledger.settle(answers([0], num_running=0))
    assert ledger.drop(sent_only=True) == [Dropped("a", (0, 1))]
    assert ledger.settle(Advance()) == []
    assert [request.key for request in ledger.take_unsent()] == [2]


def test_dropping_keeps_those_of_whom_nothing_was_sent() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add(requests(2), "a")
    ledger.take_unsent()
    ledger.add(requests(1), "a")
    ledger.add(requests(2), "b")
    assert ledger.drop(sent_only=True) == [Dropped("a", (0, 1))]
    assert [request.key for request in ledger.take_unsent()] == [3, 4]
    assert ledger.drop(sent_only=False) == [Dropped("b", (0, 1))]
    assert ledger.num_unanswered == 0


def test_no_more_are_sent_than_the_engine_may_have() -> None:
    ledger: Ledger[str] = Ledger()
    ledger.add(requests(5), "a")
    assert [request.key for request in ledger.take_unsent(3)] == [0, 1, 2]
    assert ledger.take_unsent(3) == []
    assert ledger.take_unsent(2) == []
    ledger.settle(answers([1, 2]))
    assert (ledger.num_sent, ledger.num_unanswered) == (1, 3)
    assert [request.key for request in ledger.take_unsent(3)] == [3, 4]
    ledger.add(requests(2), "b")
    assert ledger.drop(sent_only=False) == [Dropped("a", (0, 3, 4)), Dropped("b", ())]
    assert ledger.num_sent == 0
