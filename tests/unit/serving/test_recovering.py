"""Recovery: every good row is answered once, every row that kills is named, whoever else shares the gang."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.config import EchoFault, GenerationConfig, RecoveryConfig
from raydsinfer.errors import RestartsExhaustedError, WorkerGroupError
from raydsinfer.rows.request import Request
from raydsinfer.serving.caller import Reply
from raydsinfer.serving.failures import Way
from raydsinfer.serving.recovering import RecoveringService
from raydsinfer.serving.service import make_service
from tests.gangs import InProcessSupervisor

KILLS = EchoFault(rank=1, prompt_contains="poison")  # one rank alone: the gang is broken
FAILS = EchoFault(rank=None, prompt_contains="poison")  # all ranks: they stay in step
BATCHINGS = ["static", "continuous"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "feeder":
            thread.join(10)
            assert not thread.is_alive()


class Recovering:
    """A service on gangs in this process, and what came of it."""

    def __init__(self, *, max_row_deaths: int = 2, max_restarts: int = 8, dies: Any = None, **config: Any) -> None:
        always = {"max_restarts": max_restarts} | ({"dies": dies} if dies else {})
        self.supervisor = InProcessSupervisor(2, **always, **({"max_tokens": 64} | config))
        config_ = self.supervisor.group.config
        self.service = RecoveringService(
            self.supervisor,
            lambda gang, most_rows: make_service(gang, config_, most_rows),
            RecoveryConfig(max_row_deaths=max_row_deaths),
            max_running=config_.max_running,
        )

    def ask(self, *texts: str, **generation: Any) -> list[str]:
        """Outputs, or errors in angle brackets, in order."""
        return [shown(reply) for reply in self.replies(*texts, **generation)]

    def replies(self, *texts: str, **generation: Any) -> list[Reply]:
        found: dict[int, Reply] = {}

        def take(request: Request, reply: Reply) -> None:
            assert request.index not in found
            found[request.index] = reply

        call = GenerationConfig(**generation)
        rows = [
            Request(index=index, token_ids=tuple(text.encode()), prompt=text, generation=call)
            for index, text in enumerate(texts)
        ]
        self.service.answer(rows, take)
        return [found[index] for index in range(len(texts))]


def shown(reply: Reply) -> str:
    return f"<{reply.error}>" if reply.error else bytes(reply.completions[0].token_ids).decode()


def texts_with(num: int, *killers: int, caller: int = 0) -> list[str]:
    return [f"poison {caller} {row}" if row in killers else f"text {caller} {row}" for row in range(num)]


def expected(texts: list[str], found: list[str], words: str) -> bool:
    return all(words in out if "poison" in text else out == text for text, out in zip(texts, found, strict=True))


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("killer", [0, 21, 63])
def test_one_killer_in_64_costs_the_logarithm_and_no_restart_that_counts(batching: str, killer: int) -> None:
    recovering = Recovering(batching=batching, max_batch_size=64, echo_fault=KILLS)
    texts = texts_with(64, killer)
    found = recovering.replies(*texts)
    assert expected(texts, [shown(reply) for reply in found], "<gang: the gang died 2 times")
    num_deaths = recovering.supervisor.num_restarts
    print(f"{batching}, killer {killer} of 64: {num_deaths} deaths, {found[killer].num_attempts} attempts")
    assert num_deaths <= 9  # log2(64) + 3
    assert recovering.supervisor.num_taken == 0
    assert found[killer].num_attempts == num_deaths
    assert "rank 1: EngineError: echo engine, generate: told to fail on rank 1" in str(found[killer].error)
    assert 1 <= max(reply.num_attempts for reply in found if not reply.error) <= 9


@pytest.mark.parametrize("batching", BATCHINGS)
def test_three_killers_in_one_batch_and_two_in_a_row(batching: str) -> None:
    recovering = Recovering(batching=batching, max_batch_size=32, echo_fault=KILLS)
    texts = texts_with(64, 5, 6, 40)
    assert expected(texts, recovering.ask(*texts), "<gang: ")
    assert recovering.supervisor.num_taken == 0
    assert recovering.ask("fine") == ["fine"]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_several_callers_and_one_killer(batching: str) -> None:
    recovering = Recovering(batching=batching, max_batch_size=8, max_running=16, echo_fault=KILLS)
    all_texts = [texts_with(20, *([13] if caller == 2 else []), caller=caller) for caller in range(4)]
    with ThreadPoolExecutor(4) as pool:
        all_found = list(pool.map(lambda texts: recovering.ask(*texts), all_texts))
    assert all(expected(*both, "<gang: ") for both in zip(all_texts, all_found, strict=True))
    # Two with everybody, one with its caller's alone, and the halving of up to 20 rows.
    assert recovering.supervisor.num_restarts <= 2 + 1 + 4 + 2
    assert recovering.supervisor.num_taken == 0


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    killers=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=3),
    fault=st.sampled_from([KILLS, FAILS]),
    batching=st.sampled_from(BATCHINGS),
    seed=st.integers(0, 2**32),
)
def test_whatever_happens_all_rows_come_back_right(
    num_rows: list[int], killers: set[tuple[int, int]], fault: EchoFault, batching: str, seed: int
) -> None:
    chance, lock = random.Random(seed), threading.Lock()  # noqa: S311

    def dies() -> bool:
        with lock:
            return chance.random() < 0.05

    # So that chance convicts no good row: it would have to hit it five times when it is alone.
    recovering = Recovering(
        batching=batching,
        max_batch_size=4,
        max_running=6,
        echo_fault=fault,
        max_row_deaths=5,
        max_restarts=1_000,
        dies=dies,
    )
    all_texts = [
        texts_with(num, *(row for caller_, row in killers if caller_ == caller), caller=caller)
        for caller, num in enumerate(num_rows)
    ]
    with ThreadPoolExecutor(4) as pool:
        all_found = list(pool.map(lambda texts: recovering.ask(*texts), all_texts))
    assert all(expected(*both, "<") for both in zip(all_texts, all_found, strict=True))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_deaths_by_chance_are_retried_and_blame_nobody(batching: str) -> None:
    deaths = iter([True, True, False, True, False])
    recovering = Recovering(batching=batching, dies=lambda: next(deaths, False))
    texts = texts_with(40)
    found = recovering.replies(*texts)
    assert [shown(reply) for reply in found] == texts
    assert recovering.supervisor.num_restarts == 3
    assert max(reply.num_attempts for reply in found) <= 4


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_gang_that_always_dies_ends_the_job_and_blames_no_row(batching: str) -> None:
    works = [True]
    recovering = Recovering(batching=batching, dies=lambda: not works[0])
    assert recovering.ask("fine", "fine too") == ["fine", "fine too"]
    works[0] = False
    for _ in range(2):
        with pytest.raises(RestartsExhaustedError, match="max_restarts=8"):
            recovering.ask(*texts_with(16))
    assert recovering.supervisor.num_taken == 8
    assert recovering.supervisor.num_restarts < 8 + 2 * 4 + 2


def test_a_gang_that_never_worked_gets_no_refunds() -> None:
    recovering = Recovering(dies=lambda: True)
    with pytest.raises(RestartsExhaustedError):
        recovering.ask(*texts_with(64))
    assert (recovering.supervisor.num_restarts, recovering.supervisor.num_refunded) == (8, 0)


def test_all_callers_hear_that_the_restarts_are_used_up() -> None:
    recovering = Recovering(dies=lambda: True, max_restarts=3)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(recovering.ask, *texts_with(5)) for _ in range(4)]
        errors = [future.exception(30) for future in futures]
    assert all(isinstance(error, RestartsExhaustedError) for error in errors)
    assert len({id(error) for error in errors}) == 4  # each thread has its own


def test_a_row_is_guilty_only_where_the_gang_is_well() -> None:
    # After "a", the gang dies while it works on "b" alone, twice; and again on the row that it has answered before.
    deaths = iter([False, True, True, True])
    recovering = Recovering(batching="static", dies=lambda: next(deaths, False))
    assert recovering.ask("a") == ["a"]
    assert recovering.ask("b") == ["b"]
    assert recovering.supervisor.num_restarts == 3


def test_a_row_that_was_alone_each_time_is_guilty_even_by_chance() -> None:
    deaths = iter([False, True, True])
    recovering = Recovering(batching="static", dies=lambda: next(deaths, False))
    recovering.ask("a")
    assert "rank 1: RankDiedError: process 7 on node 10.0.0.1 ended: by chance" in recovering.ask("b")[0]
    assert recovering.supervisor.num_taken == 0


@pytest.mark.parametrize("max_row_deaths", [1, 2, 3])
def test_as_many_deaths_as_a_row_may_have(max_row_deaths: int) -> None:
    recovering = Recovering(batching="static", echo_fault=KILLS, max_row_deaths=max_row_deaths)
    recovering.ask("fine")
    assert "<gang: the gang died" in recovering.ask("poison")[0]
    assert recovering.supervisor.num_restarts == max_row_deaths


@pytest.mark.parametrize("batching", BATCHINGS)
def test_ranks_that_fail_in_step_cost_no_restart(batching: str) -> None:
    recovering = Recovering(batching=batching, max_batch_size=8, echo_fault=FAILS)
    texts = texts_with(20, 3, 11)
    assert expected(texts, recovering.ask(*texts), "<engine: rank 0: EngineError: echo engine, generate: told to fail")
    assert recovering.supervisor.num_restarts == 0


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("rank", [None, 1])
def test_out_of_memory_makes_batches_smaller_and_keeps_them_so(batching: str, rank: int | None) -> None:
    fault = EchoFault(rank=rank, action="oom", oom_rows=5)
    recovering = Recovering(batching=batching, max_batch_size=32, max_running=32, echo_fault=fault)
    texts = texts_with(40)
    assert recovering.ask(*texts) == texts
    way: Way = "generate" if batching == "static" else "advance"
    assert recovering.service._limits.most(way) == 4
    deaths = recovering.supervisor.num_restarts
    assert deaths == (0 if rank is None else 3)  # one rank alone: the others wait for it, and the gang is broken
    assert recovering.supervisor.num_taken == 0
    num_failed, num_probes = 3, 0 if rank is None else 1  # the cheapest row alone, after the first death
    assert recovering.ask(*texts) == texts
    assert recovering.supervisor.num_restarts == deaths
    if batching == "static":
        assert recovering.supervisor.calls.count("generate") == num_failed + num_probes + 10 + 10


@pytest.mark.parametrize("batching", BATCHINGS)
def test_one_row_too_large_for_the_memory_does_not_slow_down_all_others(batching: str) -> None:
    fault = EchoFault(rank=None, action="oom", prompt_contains="poison")
    recovering = Recovering(batching=batching, max_batch_size=16, max_running=16, echo_fault=fault)
    texts = texts_with(32, 7)
    found = recovering.ask(*texts)
    assert expected(texts, found, "<engine: ")
    assert "memory for 0 rows" in found[7]
    assert recovering.service._limits.seen() == {"advance": None, "generate": None}
    assert recovering.supervisor.num_restarts == 0
    # 16, 8, 4, 2, 1 rows; it alone, the witness; and the others, but not one by one.
    assert len(recovering.supervisor.calls) <= 12


@pytest.mark.parametrize("killers", [(0, 255), (7, 200)])
@pytest.mark.parametrize("has_answered", [False, True])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_row_too_large_for_one_rank_alone_uses_up_no_restarts(
    batching: str, has_answered: bool, killers: tuple[int, int]
) -> None:
    fault = EchoFault(rank=1, action="oom", prompt_contains="poison")
    recovering = Recovering(batching=batching, max_batch_size=256, max_running=256, echo_fault=fault)
    if has_answered:
        assert recovering.ask("fine") == ["fine"]
    texts = texts_with(256, *killers)
    found = recovering.ask(*texts)
    assert expected(texts, found, "<engine: ")
    assert recovering.supervisor.num_restarts > 8  # more than count
    assert recovering.supervisor.num_taken == 0
    assert recovering.service._limits.seen() == {"advance": None, "generate": None}


def test_a_gang_without_memory_for_anything_gets_no_refunds() -> None:
    recovering = Recovering(batching="continuous", max_running=256, echo_fault=EchoFault(rank=1, action="oom"))
    with pytest.raises(RestartsExhaustedError):
        recovering.ask(*texts_with(256))
    assert (recovering.supervisor.num_restarts, recovering.supervisor.num_refunded) == (8, 0)


@pytest.mark.parametrize("rank", [None, 1])
def test_beams_out_of_memory_do_not_slow_down_the_running_batch(rank: int | None) -> None:
    fault = EchoFault(rank=rank, action="oom", prompt_contains="poison", oom_rows=2)
    recovering = Recovering(batching="continuous", max_batch_size=32, max_running=256, echo_fault=fault)
    beams = texts_with(8, *range(8))
    assert recovering.ask(*beams, num_beams=4) == beams
    assert recovering.service._limits.seen() == {"advance": None, "generate": 8}  # two rows of four beams
    assert recovering.supervisor.num_taken == 0


def test_rows_with_errors_of_the_engine_are_answers() -> None:
    recovering = Recovering(kv_cache_bytes=20)
    found = recovering.replies("a", "x" * 15, max_new_tokens=10)
    assert shown(found[0]) == "a"
    assert "needs 25 tokens of the KV cache" in shown(found[1])
    assert [reply.num_attempts for reply in found] == [1, 1]


def test_an_error_of_who_takes_is_his_own() -> None:
    recovering = Recovering()

    def take(request: Request, reply: Reply) -> None:
        raise ValueError("mine")

    rows = [Request(index=0, token_ids=(65,), prompt="A", generation=GenerationConfig())]
    with pytest.raises(ValueError, match="mine"):
        recovering.service.answer(rows, take)
    assert recovering.ask("fine") == ["fine"]


def test_an_interrupt_ends_the_gang_for_all() -> None:
    recovering = Recovering(batching="static")

    def take(request: Request, reply: Reply) -> None:
        raise KeyboardInterrupt

    rows = [Request(index=0, token_ids=(65,), prompt="A", generation=GenerationConfig())]
    with pytest.raises(KeyboardInterrupt):
        recovering.service.answer(rows, take)
    with pytest.raises(WorkerGroupError):
        recovering.ask("late")
    assert recovering.supervisor.num_restarts == 0


@pytest.mark.parametrize("batching", BATCHINGS)
def test_shutdown_in_the_middle_restarts_nothing(batching: str) -> None:
    recovering = Recovering(batching=batching, max_batch_size=2)
    gang = recovering.supervisor.group
    gang.open.clear()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(recovering.ask, *texts_with(6)) for _ in range(3)]
        assert gang.arrived.wait(30)
        recovering.service.shutdown()
        errors = [future.exception(30) for future in futures]
    assert all(isinstance(error, WorkerGroupError) for error in errors)
    assert recovering.supervisor.num_restarts == 0


def test_the_first_answer_of_each_life_is_told() -> None:
    deaths = iter([False, True, False])
    recovering = Recovering(batching="static", max_batch_size=2, dies=lambda: next(deaths, False))
    recovering.ask(*texts_with(8))
    assert recovering.supervisor.num_answered == 2


def test_no_rows() -> None:
    assert Recovering().ask() == []
