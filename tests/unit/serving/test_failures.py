"""What is read from a gang's failure."""

from __future__ import annotations

from raydsinfer.errors import EngineError, RankDiedError, WorkerGroupError
from raydsinfer.serving.failures import fresh, in_words, is_out_of_memory


def failure(**causes: BaseException) -> WorkerGroupError:
    return WorkerGroupError(gang="g", phase="generate", causes={int(rank[1:]): cause for rank, cause in causes.items()})


def test_one_rank_without_memory_is_enough() -> None:
    lost = RankDiedError(process="process 1", reason="killed")
    short = EngineError(doing="generate", reason="no memory", out_of_memory=True)
    assert is_out_of_memory(failure(r0=lost, r1=short))
    assert not is_out_of_memory(failure(r0=lost, r1=EngineError(doing="generate", reason="a bug")))


def test_a_row_hears_of_the_first_cause_in_one_short_line() -> None:
    words = in_words(failure(r2=ValueError("first\nsecond"), r1=RankDiedError(process="process 1", reason="x" * 900)))
    assert words.startswith("rank 1: RankDiedError: process 1 ended: xxx")
    assert len(words) <= 401
    assert in_words(failure(r2=ValueError("first\nsecond"))) == "rank 2: ValueError: first"
    assert in_words(failure(r0=ValueError())) == "rank 0: ValueError: no message"
    assert in_words(failure()) == "g failed in generate"


def test_each_thread_raises_an_error_of_its_own() -> None:
    error = failure(r0=ValueError("why"))
    error.__cause__ = KeyError()
    again = fresh(error)
    assert again is not error
    assert (str(again), again.__cause__) == (str(error), error.__cause__)
    interrupt = KeyboardInterrupt()
    assert fresh(interrupt) is interrupt
