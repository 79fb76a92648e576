"""Services: rows with their own settings, static and continuous, behind one interface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raydsinfer.config import EchoFault, GenerationConfig
from raydsinfer.engines.base import GenerateAnswer
from raydsinfer.rows.request import Request
from raydsinfer.serving.failures import GangFailed
from raydsinfer.serving.service import ContinuousService, StaticService
from tests.gangs import InProcessGang


def request(index: int, text: str, **settings: Any) -> Request:
    return Request(index=index, token_ids=tuple(text.encode()), prompt=text, generation=GenerationConfig(**settings))


def answered(service: StaticService | ContinuousService, requests: list[Request]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}

    def take(request: Request, answer: GenerateAnswer) -> None:
        assert request.index not in found
        found[request.index] = [bytes(c.token_ids).decode() for c in answer.completions]

    service.answer(requests, take)
    service.join()
    return found


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_rows_with_settings_of_their_own(batching: str) -> None:
    gang = InProcessGang(2, batching=batching, max_batch_size=4)
    service = (StaticService if batching == "static" else ContinuousService)(gang, gang.config)
    rows = [
        request(7, "seven"),
        request(2, "two", max_new_tokens=2),
        request(5, "five", num_return_sequences=2, do_sample=True),
        request(1, "one", num_beams=2),
    ]
    assert answered(service, rows) == {7: ["seven"], 2: ["tw"], 5: ["five", "five"], 1: ["one"]}
    assert gang.calls.count("generate") == (4 if batching == "static" else 1)
    assert ("advance" in gang.calls) is (batching == "continuous")


def test_static_callers_take_turns() -> None:
    gang = InProcessGang(batching="static", max_batch_size=1)
    service = StaticService(gang, gang.config)
    order: list[str] = []
    run = gang.run

    def noted(method: str, batch: Any) -> Any:
        order.append(bytes(batch.prompts[0]).decode())
        return run(method, batch)

    gang.run = noted  # type: ignore[method-assign]
    batches = [[request(index, caller) for index in range(5)] for caller in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: answered(service, rows), batches))
    assert found == [{index: [caller] for index in range(5)} for caller in "abcd"]
    turns = ["".join(order[start : start + 5]) for start in range(0, 20, 5)]
    assert sorted(turns) == ["aaaaa", "bbbbb", "ccccc", "ddddd"]


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_what_was_answered_before_a_failure_stays_answered(batching: str) -> None:
    fault = EchoFault(rank=1, prompt_contains="poison")
    gang = InProcessGang(2, batching=batching, max_batch_size=2, echo_fault=fault)
    service = (StaticService if batching == "static" else ContinuousService)(gang, gang.config)
    # By length: two calls of two rows, the second of which fails; beams for the continuous one.
    rows = [request(key, text, num_beams=2) for key, text in enumerate(["longest one", "a", "poison", "longest"])]
    found: list[int] = []
    with pytest.raises(GangFailed) as caught:
        service.answer(rows, lambda request, answer: found.append(request.index))
    assert (found, list(caught.value.on_gang), caught.value.num_on_gang) == ([0, 3], [2], 1)
    with pytest.raises(GangFailed) as caught:
        service.answer(rows, lambda request, answer: None)
    assert list(caught.value.on_gang) == []  # it was dead before


def test_a_limit_of_rows_makes_smaller_calls() -> None:
    gang = InProcessGang(batching="static", max_batch_size=4)
    found = answered(StaticService(gang, gang.config, lambda way: 1), [request(index, "a") for index in range(3)])
    assert (len(found), gang.calls) == (3, ["generate"] * 3)


def test_a_static_gang_refuses_what_a_continuous_one_was_asked() -> None:
    gang = InProcessGang(batching="static")
    errors: dict[int, str] = {}
    rows = [request(0, "a", return_logprobs=True), request(1, "b")]
    StaticService(gang, gang.config).answer(rows, lambda request, answer: errors.update({request.index: answer.error}))
    assert errors[1] == ""
    assert "since it was started again" in errors[0]
