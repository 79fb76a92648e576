"""Which rows to try next, to find those that take the gang down. Pure: no threads, no gang."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Try:
    """Have these rows answered, with nobody else's on the gang.

    Args:
        rows: Their keys; never empty.
    """

    rows: tuple[int, ...]


@dataclass(frozen=True)
class Judge:
    """Decide on a row that was alone on the gang as often as it takes when the gang failed.

    Args:
        row: Its key.
    """

    row: int


@dataclass
class Bisection:
    """Halves sets of rows until each row is answered, or accused.

    A set is *bad* if the gang failed when it worked on that set and on nothing else. It is never tried again as a
    whole: its first half is. If that fails, the second half is tried before the first is halved further, so that
    good rows are answered early; if it does not, the second half is bad without a trial. A bad set of one row is
    tried until the gang has failed `max_alone` times with it; then the row is accused, and `step` says `Judge`.

    With one row that kills, a bad set of n rows costs at most ceil(log2(n)) - 1 + max_alone failures (max_alone
    where n is 1). Failures that no row is to blame for cost trials but accuse nobody, unless they hit the same row
    alone `max_alone` times.

    Args:
        rows: Keys of the rows, all different.
        bad: Those of them that made the gang fail together, if one knows.
        max_alone: Failures that accuse a row.
        num_alone: Row → failures that it has behind it, alone on the gang.
    """

    rows: Sequence[int]
    bad: Collection[int] = ()
    max_alone: int = 2
    num_alone: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._accused = [row for row in self.rows if self.num_alone.get(row, 0) >= self.max_alone]
        rest = [row for row in self.rows if row not in self._accused]
        self._bad = _sets([row for row in rest if row in self.bad])
        self._unknown = _sets([row for row in rest if row not in self.bad])
        self._second: tuple[int, ...] = ()  # half of a bad set, while the first is tried

    def step(self) -> Try | Judge | None:
        """What to do next, None if nothing. Before the next one, say what came of it."""
        if self._accused:
            return Judge(self._accused[-1])
        if self._unknown:
            return Try(self._unknown[-1])
        if self._bad:
            return Try(self._first_half())
        return None

    def survived(self) -> None:
        """The rows that were tried are all answered."""
        if self._unknown:
            self._unknown.pop()
            return
        self._bad.pop()
        self._bad += _sets(self._second)
        self._second = ()

    def failed(self, left: Collection[int], on_gang: Collection[int]) -> None:
        """The gang failed in the trial.

        Args:
            left: Rows of the trial that are not answered.
            on_gang: Those of them that the gang was working on.
        """
        tried = self._take_tried()
        blamed = tuple(row for row in tried if row in on_gang)
        # What is left of a second half is as it was: it has not been tried.
        self._unknown += _sets(self._second) + _sets([row for row in tried if row in left and row not in on_gang])
        self._second = ()
        if len(blamed) == 1:
            self._count(blamed[0])
        else:
            self._bad += _sets(blamed)

    def convicted(self) -> None:
        """The row that `step` named has been dealt with."""
        self._accused.pop()

    def acquitted(self) -> None:
        """The row that `step` named was not to blame: it begins anew."""
        row = self._accused.pop()
        self.num_alone[row] = 0
        self._bad.append((row,))

    def _first_half(self) -> tuple[int, ...]:
        rows = self._bad[-1]
        middle = (len(rows) + 1) // 2
        self._second = rows[middle:]
        return rows[:middle]

    def _take_tried(self) -> tuple[int, ...]:
        if self._unknown:
            return self._unknown.pop()
        rows = self._bad.pop()
        return rows[: len(rows) - len(self._second)]

    def _count(self, row: int) -> None:
        self.num_alone[row] = self.num_alone.get(row, 0) + 1
        if self.num_alone[row] >= self.max_alone:
            self._accused.append(row)
        else:
            self._bad.append((row,))


def _sets(rows: Sequence[int]) -> list[tuple[int, ...]]:
    """A list of one set, or of none if it would be empty."""
    return [tuple(rows)] if rows else []
