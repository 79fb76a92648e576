from __future__ import annotations

import threading

from raydsinfer.engines.base import LoadProgress
from raydsinfer.groups.watch import LoadWatch, progress_line

GB = 10**9


def test_nothing_moves_nothing_is_said() -> None:
    assert progress_line({}) == ""
    assert progress_line({0: LoadProgress(), 1: LoadProgress("weights", 0, 5 * GB, 0.0)}) == ""


def test_each_rank_of_a_small_gang_has_its_bytes_and_speed() -> None:
    line = progress_line(
        {1: LoadProgress("weights", 3 * GB, 6 * GB, 2.0), 0: LoadProgress("weights", 6 * GB, 6 * GB, 2.0)}
    )
    assert line == "weights: rank 0 6.00 GB of 6.00 GB, 3.00 GB/s; rank 1 3.00 GB of 6.00 GB, 1.50 GB/s"


def test_of_a_large_gang_the_last_rank_is_named() -> None:
    ranks = {rank: LoadProgress("weights", (9 - rank) * GB, 10 * GB, 1.0) for rank in range(8)}
    assert (
        progress_line(ranks) == "weights: 44.00 GB of 80.00 GB on 8 ranks; last rank 7 2.00 GB of 10.00 GB, 2.00 GB/s"
    )


def test_who_fetches_is_told_while_the_others_wait() -> None:
    line = progress_line({0: LoadProgress("fetch"), 1: LoadProgress("fetch", GB, 0, 0.5)})
    assert line == "fetch: rank 1 1.00 GB, 2.00 GB/s"


def test_tells_while_it_is_open_and_only_news() -> None:
    told: list[str] = []
    answers: list[dict[int, LoadProgress]] = [{}, {0: LoadProgress("weights", GB, 2 * GB, 1.0)}] + [
        {0: LoadProgress("weights", GB, 2 * GB, 1.0)}
    ] * 3
    asked = threading.Event()

    def ask() -> dict[int, LoadProgress]:
        if len(answers) == 1:
            asked.set()
        return answers.pop(0) if len(answers) > 1 else answers[0]

    with LoadWatch(ask, told.append, poll_s=0.01):
        assert asked.wait(5)
    assert told == ["weights: rank 0 1.00 GB of 2.00 GB, 1.00 GB/s"]


def test_a_small_model_counts_in_megabytes() -> None:
    assert progress_line({0: LoadProgress("weights", 500_000, 2_000_000)}) == "weights: rank 0 0.50 MB of 2.00 MB"


def test_who_reshards_is_told_before_who_loads() -> None:
    ranks = {0: LoadProgress("weights", GB, 2 * GB, 1.0), 1: LoadProgress("reshard", 3 * GB, 4 * GB, 6.0)}
    assert progress_line(ranks) == "reshard: rank 1 3.00 GB of 4.00 GB, 0.50 GB/s"
