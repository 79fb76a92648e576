"""The feeder: several callers, one engine, every request answered once, and no thread left."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from raydsinfer.config import EchoFault, GenerationConfig
from raydsinfer.engines.base import Advance, GenerateAnswer, GenerateBatch, GenerateRequest
from raydsinfer.errors import EngineError
from raydsinfer.serving.failures import GangFailed
from raydsinfer.serving.feeder import Feeder
from tests.gangs import InProcessGang


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "feeder":
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def requests(*texts: str, **settings: Any) -> list[GenerateRequest]:
    generation = GenerationConfig(**settings)
    return [GenerateRequest(key=key, token_ids=text.encode(), generation=generation) for key, text in enumerate(texts)]


def asked(feeder: Feeder, *texts: str, **settings: Any) -> dict[int, str]:
    """Key → text, of what came back."""
    found: dict[int, str] = {}

    def take(answer: GenerateAnswer) -> None:
        assert answer.key not in found
        found[answer.key] = answer.error or bytes(answer.completions[0].token_ids).decode()

    feeder.answer(requests(*texts, **settings), take)
    return found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def failures(futures: list[Future[Any]]) -> list[BaseException | None]:
    wait(futures, timeout=30)
    return [future.exception(timeout=0) for future in futures]


def test_every_request_is_answered_once_to_whom_it_belongs(callers: ThreadPoolExecutor) -> None:
    feeder = Feeder(InProcessGang(2, max_running=3), steps_per_call=2)
    texts = [[f"{'x' * (row % 7)}{caller}" for row in range(20)] for caller in range(8)]
    for mine, found in zip(texts, callers.map(lambda mine: asked(feeder, *mine), texts), strict=True):
        assert found == dict(enumerate(mine))
    assert feeder.counts.num_answers == 160
    assert asked(feeder) == {}


def test_callers_share_the_engine(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(max_running=8)
    feeder = Feeder(gang, steps_per_call=10)
    gang.open.clear()
    futures = [callers.submit(asked, feeder, "x" * 40, "short") for _ in range(4)]
    until(lambda: feeder._ledger.num_unanswered == 8)
    gang.open.set()
    assert failures(futures) == [None] * 4
    # The first call may have left with the first caller's requests alone: its steps are over soon.
    assert feeder.counts.num_steps <= 50
    assert feeder.counts.num_calls <= 6


def test_answers_come_as_they_are_finished() -> None:
    order: list[int] = []
    Feeder(InProcessGang()).answer(requests("xxxxx", "x", "xxx"), lambda answer: order.append(answer.key))
    assert order == [1, 2, 0]


def test_an_error_for_an_answer_is_no_failure() -> None:
    found = asked(Feeder(InProcessGang(kv_cache_bytes=8)), "abc", "abcdefgh", max_new_tokens=5)
    assert found[0] == "abc"
    assert "needs 13 tokens of the KV cache" in found[1]


def test_ranks_that_fail_in_step_lose_their_requests_only(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(2, echo_fault=EchoFault(prompt_contains="poison"))
    both_fail = gang.engines[1]
    both_fail._context = gang.engines[0]._context
    feeder = Feeder(gang)
    with pytest.raises(GangFailed) as caught:
        asked(feeder, "fine", "poison")
    assert set(caught.value.error.causes) == {0, 1}
    assert (list(caught.value.on_gang), caught.value.num_on_gang) == ([0, 1], 2)
    assert asked(feeder, "fine") == {0: "fine"}


def test_a_broken_gang_fails_all_who_wait_and_all_who_come(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(2, echo_fault=EchoFault(rank=1, prompt_contains="poison"))
    feeder = Feeder(gang)
    gang.open.clear()
    batch = GenerateBatch(prompts=[b"abc"], generation=GenerationConfig())
    futures: list[Future[Any]] = [callers.submit(asked, feeder, "fine", "poison")]
    assert gang.arrived.wait(30)
    futures += [callers.submit(asked, feeder, "fine"), callers.submit(feeder.generate, batch)]
    until(lambda: feeder._ledger.num_unanswered == 3 and len(feeder._batches) == 1)
    gang.open.set()
    found = failures(futures)
    assert all(isinstance(error, GangFailed) and list(error.error.causes) == [1] for error in found)
    # The gang was working on the first caller's requests only.
    assert [list(error.on_gang) for error in found if isinstance(error, GangFailed)] == [[0, 1], [], []]
    assert gang.calls == ["advance"]
    with pytest.raises(GangFailed) as caught:
        asked(feeder, "late")
    assert isinstance(caught.value.error.causes[1], EngineError)
    assert caught.value is not found[0]
    assert list(caught.value.on_gang) == []


def test_batches_go_between_the_steps(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(echo_fault=EchoFault(prompt_contains="poison"))
    feeder = Feeder(gang, steps_per_call=1)
    gang.open.clear()
    long = callers.submit(asked, feeder, "x" * 30)
    assert gang.arrived.wait(30)
    batch = GenerateBatch(prompts=[b"abc"], generation=GenerationConfig())
    short = [callers.submit(feeder.generate, batch) for _ in range(2)]
    until(lambda: len(feeder._batches) == 2)
    gang.open.set()
    assert [bytes(future.result(30)[0][0].token_ids) for future in short] == [b"abc"] * 2
    assert long.result(30) == {0: "x" * 30}
    assert gang.calls[:5] == ["advance", "generate", "advance", "generate", "advance"]


def test_a_batch_that_fails_in_step_fails_alone() -> None:
    feeder = Feeder(InProcessGang(echo_fault=EchoFault(prompt_contains="poison")))
    with pytest.raises(GangFailed) as caught:
        feeder.generate(GenerateBatch(prompts=[b"poison", b"a"], generation=GenerationConfig()))
    assert (list(caught.value.on_gang), caught.value.num_on_gang) == ([0, 1], 2)
    assert asked(feeder, "fine") == {0: "fine"}


def test_shutdown_in_the_middle_ends_all(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(echo_delay_s=0.001)
    feeder = Feeder(gang, steps_per_call=1)
    futures = [callers.submit(asked, feeder, "x" * 60_000, max_new_tokens=60_000) for _ in range(3)]
    until(lambda: feeder.counts.num_steps > 3)
    gang.shutdown()
    feeder.join(10)
    assert all(isinstance(error, GangFailed) for error in failures(futures))


@pytest.mark.parametrize(("raised", "broken"), [(KeyboardInterrupt, True), (ValueError, False)])
def test_an_interrupt_ends_the_gang_and_an_error_of_the_caller_does_not(
    raised: type[BaseException], broken: bool
) -> None:
    gang = InProcessGang()
    feeder = Feeder(gang)

    def take(answer: GenerateAnswer) -> None:
        raise raised

    with pytest.raises(raised):
        feeder.answer(requests("a", "bcd"), take)
    assert gang.broken is broken
    if not broken:
        assert asked(feeder, "fine") == {0: "fine"}


def test_ctrl_c_ends_the_gang_in_the_middle_of_a_call() -> None:
    gang = InProcessGang()
    feeder = Feeder(gang)
    gang.open.clear()
    # A shell starts background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        gang.arrived.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            asked(feeder, "a")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert gang.broken
    with pytest.raises(GangFailed):
        asked(feeder, "late")


class Forgets(InProcessGang):
    """Its engine says that it is done, and was not."""

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return Advance()


def test_an_engine_that_forgets_does_not_hang_the_callers() -> None:
    gang = Forgets()
    with pytest.raises(GangFailed) as caught:
        asked(Feeder(gang), "a")
    assert "left 1 requests unanswered" in str(caught.value.error)
    assert gang.broken  # what it still has cannot be known


def test_a_batch_that_takes_the_gang_with_it_takes_the_others_requests_too(callers: ThreadPoolExecutor) -> None:
    gang = InProcessGang(2, echo_fault=EchoFault(rank=1, prompt_contains="poison"))
    feeder = Feeder(gang, steps_per_call=1)
    gang.open.clear()
    long = callers.submit(asked, feeder, "x" * 30, "y" * 30)
    assert gang.arrived.wait(30)
    batch = callers.submit(feeder.generate, GenerateBatch(prompts=[b"poison"], generation=GenerationConfig()))
    until(lambda: len(feeder._batches) == 1)
    gang.open.set()
    both = failures([long, batch])
    assert all(isinstance(error, GangFailed) and error.num_on_gang == 3 for error in both)
    assert [list(error.on_gang) for error in both if isinstance(error, GangFailed)] == [[0, 1], [0]]


def test_a_gang_that_was_dead_before_was_working_on_nothing() -> None:
    gang = InProcessGang()
    gang.broken = True
    feeder = Feeder(gang)
    with pytest.raises(GangFailed) as caught:
        asked(feeder, "a", "b")
    assert list(caught.value.on_gang) == []
    feeder = Feeder(gang)
    with pytest.raises(GangFailed) as caught:
        feeder.generate(GenerateBatch(prompts=[b"a"], generation=GenerationConfig()))
    assert (list(caught.value.on_gang), caught.value.num_on_gang) == ([], 0)


def test_no_more_requests_are_on_the_gang_than_may_be() -> None:
    gang, most = InProcessGang(echo_fault=EchoFault(rank=None, action="oom", oom_rows=3)), 8
    feeder = Feeder(gang, lambda: most, steps_per_call=2)
    with pytest.raises(GangFailed) as caught:
        asked(feeder, *"abcdefghijkl")
    assert (len(caught.value.on_gang), caught.value.num_on_gang) == (8, 8)
    most = 3
    assert asked(feeder, *"abcdefghijkl") == dict(enumerate("abcdefghijkl"))


def test_an_idle_feeder_is_kept_alive_by_nothing() -> None:
    feeder = Feeder(InProcessGang())
    asked(feeder, "a")
    feeder.join(10)
    gone = weakref.ref(feeder)
    gc.disable()
    try:
        del feeder
        assert gone() is None
    finally:
        gc.enable()
