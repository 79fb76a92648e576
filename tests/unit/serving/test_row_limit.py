"""The limit of rows: halved once for all who saw it, down to one, and restored."""

from __future__ import annotations

from raydsinfer.serving.row_limit import RowLimit


def test_it_is_halved_until_one_is_left() -> None:
    limit = RowLimit(256)
    found = []
    while limit.lower(limit.most, num_on_gang=1000 if limit.most is None else limit.most):
        found.append(limit.most)
    assert found == [128, 64, 32, 16, 8, 4, 2, 1]


def test_what_was_on_the_gang_counts_if_it_was_fewer() -> None:
    limit = RowLimit(256)
    assert limit.lower(None, num_on_gang=7)
    assert limit.most == 3
    assert limit.lower(3, num_on_gang=2)
    assert limit.most == 1


def test_those_who_saw_the_same_limit_halve_it_once() -> None:
    limit = RowLimit(256)
    assert all(limit.lower(None, num_on_gang=32) for _ in range(4))
    assert limit.most == 16
    assert limit.lower(16, num_on_gang=16)
    assert limit.lower(None, num_on_gang=32)  # from before
    assert limit.most == 8


def test_it_goes_back_up_only() -> None:
    limit = RowLimit(256)
    limit.restore(None)
    assert limit.most is None
    limit.lower(None, num_on_gang=32)
    limit.restore(8)
    assert limit.most == 16
    limit.restore(20)
    assert limit.most == 20
    limit.restore(None)
    assert limit.most is None
