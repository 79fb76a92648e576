"""The limit of rows: halved once for all who saw it, down to one, and restored."""

from __future__ import annotations

from raydsinfer.serving.failures import FailedCall
from raydsinfer.serving.row_limit import RowLimit, RowLimits


def test_it_is_halved_until_one_is_left() -> None:
    limit = RowLimit("advance", 256)
    found = []
    while limit.lower(limit.most, size=1000 if limit.most is None else limit.most):
        found.append(limit.most)
    assert found == [128, 64, 32, 16, 8, 4, 2, 1]


def test_what_was_on_the_gang_counts_if_it_was_fewer() -> None:
    limit = RowLimit("advance", 256)
    assert limit.lower(None, size=7)
    assert limit.most == 3
    assert limit.lower(3, size=2)
    assert limit.most == 1


def test_those_who_saw_the_same_limit_halve_it_once() -> None:
    limit = RowLimit("advance", 256)
    assert all(limit.lower(None, size=32) for _ in range(4))
    assert limit.most == 16
    assert limit.lower(16, size=16)
    assert limit.lower(None, size=32)  # from before
    assert limit.most == 8


def test_it_goes_back_up_only() -> None:
    limit = RowLimit("advance", 256)
    limit.restore(None)
    assert limit.most is None
    limit.lower(None, size=32)
    limit.restore(8)
    assert limit.most == 16
    limit.restore(20)
    assert limit.most == 20
    limit.restore(None)
    assert limit.most is None


def test_each_way_has_a_limit_of_its_own() -> None:
    limits = RowLimits(256)
    seen = limits.seen()
    assert limits.lower(seen, FailedCall("generate", num_rows=8, size=32))
    assert limits.seen() == {"advance": None, "generate": 16}
    assert limits.lower(seen, FailedCall("advance", num_rows=1000, size=1000))
    assert (limits.most("advance"), limits.most("generate")) == (128, 16)
    limits.restore({"generate": None})
    assert limits.seen() == {"advance": 128, "generate": None}
