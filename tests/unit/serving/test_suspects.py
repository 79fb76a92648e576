"""Bisection: every row that kills is found, no other is, and what it costs is bounded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.serving.suspects import Bisection, Judge, Try


def most_failures(num_rows: int, num_killers: int, max_alone: int) -> int:
    """For a bad set, one level of halving after the other: the whole has failed before, and a single row fails
    `max_alone` times. So each killer has ceil(log2(n)) - 1 sets between the two that hold it and can fail."""
    return num_killers * (max(0, (num_rows - 1).bit_length() - 1) + max_alone)


@dataclass
class Gang:
    """What the machine is played against.

    Args:
        killers: Rows that it fails with.
        chance: Says whether it fails for no reason.
        most: Rows that it works on at once: only those are on it when it fails.
        early: Says whether a row is answered before a failure.
    """

    killers: Collection[int]
    chance: random.Random | None = None
    most: int = 1_000
    early: random.Random | None = None
    answered: list[int] = field(default_factory=list)
    convicted: list[int] = field(default_factory=list)
    num_failures: int = 0
    num_trials: int = 0
    alone: Counter[int] = field(default_factory=Counter)

    def play(self, bisection: Bisection) -> None:
        while (step := bisection.step()) is not None:
            assert bisection.step() == step
            if isinstance(step, Judge):
                self.convicted.append(step.row)
                bisection.convicted()
            else:
                self.trial(bisection, step)

    def trial(self, bisection: Bisection, step: Try) -> None:
        self.num_trials += 1
        assert step.rows
        for start in range(0, len(step.rows), self.most):
            rows = step.rows[start : start + self.most]
            by_chance = self.chance is not None and self.chance.random() < 0.2
            if by_chance or set(rows) & set(self.killers):
                early = [r for r in rows if self.early and r not in self.killers and self.early.random() < 0.5]
                on_gang = [row for row in rows if row not in early]
                self.answered += early
                self.num_failures += 1
                self.alone[on_gang[0] if len(on_gang) == 1 else -1] += 1
                left = [row for row in step.rows if row not in self.answered]
                bisection.failed(left, on_gang)
                return
            self.answered += rows
        bisection.survived()


rows_and_killers = st.integers(1, 40).flatmap(
    lambda num: st.tuples(st.just(list(range(num))), st.sets(st.integers(0, num - 1), max_size=6))
)


@given(case=rows_and_killers, max_alone=st.integers(1, 3), is_bad=st.booleans(), most=st.sampled_from([1, 3, 1_000]))
def test_killers_are_found_and_all_others_answered(
    case: tuple[list[int], set[int]], max_alone: int, is_bad: bool, most: int
) -> None:
    rows, killers = case
    gang = Gang(killers, most=most)
    gang.play(Bisection(rows, bad=rows if is_bad else (), max_alone=max_alone))
    assert sorted(gang.convicted) == sorted(killers)
    assert sorted(gang.answered) == sorted(set(rows) - killers)
    known = 0 if is_bad or not killers else 1  # a set of which nothing is known has to fail first
    if most == 1_000:
        assert gang.num_failures <= known + most_failures(len(rows), len(killers), max_alone)


@given(case=rows_and_killers, seed=st.integers(0, 2**32), max_alone=st.integers(1, 3))
def test_chance_convicts_nobody_that_was_not_alone_each_time(
    case: tuple[list[int], set[int]], seed: int, max_alone: int
) -> None:
    rows, killers = case
    chance = random.Random(seed)  # noqa: S311
    gang = Gang(killers, chance=chance, early=chance)
    gang.play(Bisection(rows, max_alone=max_alone))
    assert sorted(gang.answered + gang.convicted) == rows
    assert killers <= set(gang.convicted)
    assert all(gang.alone[row] == max_alone for row in gang.convicted)


@pytest.mark.parametrize("num", [1, 2, 3, 8, 64, 100, 1024])
def test_one_killer_costs_the_logarithm(num: int) -> None:
    costs = []
    for killer in range(num) if num <= 100 else (0, 1, num // 2, num - 1):
        gang = Gang({killer})
        gang.play(Bisection(range(num), bad=range(num)))
        costs.append((gang.num_failures, gang.num_trials))
    print(f"{num} rows: at most {max(costs)} failures and trials, of {most_failures(num, 1, 2)}")
    assert max(failures for failures, _ in costs) == most_failures(num, 1, 2)


def steps(bisection: Bisection, *outcomes: bool) -> list[tuple[int, ...]]:
    """Rows of one trial after the other, whose outcomes are given."""
    tried = []
    for survived in outcomes:
        step = bisection.step()
        assert isinstance(step, Try)
        tried.append(step.rows)
        if survived:
            bisection.survived()
        else:
            bisection.failed(step.rows, step.rows)
    return tried


def test_a_second_half_is_bad_if_the_first_is_not_and_else_comes_next() -> None:
    found = steps(Bisection(range(8), bad=range(8)), True, False, True)
    assert found == [(0, 1, 2, 3), (4, 5), (6, 7)]
    assert steps(Bisection(range(8)), False, False, True, True, False) == [
        (0, 1, 2, 3, 4, 5, 6, 7),
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        (0, 1),
        (2,),
    ]


def test_rows_that_the_gang_was_not_working_on_are_not_blamed() -> None:
    bisection = Bisection(range(4))
    bisection.step()
    bisection.failed([1, 2, 3], [2])  # 0 was answered; 2 was alone
    assert bisection.num_alone == {2: 1}
    assert steps(bisection, True, False) == [(1, 3), (2,)]
    assert bisection.step() == Judge(2)


def test_a_row_that_is_not_to_blame_begins_anew() -> None:
    bisection = Bisection([5, 6], bad=[5, 6], num_alone={5: 2})
    assert bisection.step() == Judge(5)
    bisection.acquitted()
    assert steps(bisection, False, False) == [(5,), (5,)]
    assert bisection.step() == Judge(5)
    bisection.convicted()
    assert steps(bisection, True) == [(6,)]
    assert bisection.step() is None


def test_a_gang_that_was_dead_already_says_nothing_about_rows() -> None:
    bisection = Bisection(range(4), bad=range(4))
    step = bisection.step()
    assert isinstance(step, Try)
    bisection.failed(step.rows, [])
    assert {row for rows in steps(bisection, True, True) for row in rows} == {0, 1, 2, 3}
    assert bisection.step() is None
