"""One caller's requests: which are open, how often each was sent, and which are suspected of killing the gang."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from raydsinfer.engines.base import Completion, GenerateAnswer
from raydsinfer.errors import RowError
from raydsinfer.rows.request import Request
from raydsinfer.serving.failures import GangFailed, Way, in_words, is_out_of_memory
from raydsinfer.serving.suspects import Bisection

# One failure may be anybody's; who was there twice is looked at apart.
_SUSPECT_AFTER = 2


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of a request.

    Args:
        completions: `num_return_sequences` entries; none if there is an error.
        error: Why there is no answer.
        num_attempts: Times that the gang worked on it.
    """

    completions: tuple[Completion, ...] = ()
    error: RowError | None = None
    num_attempts: int = 0


TakeReply = Callable[[Request, Reply], None]
"""Gets what became of a request, in the thread that asked."""


@dataclass
class Record:
    """What happened to a request so far.

    Args:
        num_attempts: Times that the gang worked on it.
        num_failures: Times that the gang failed meanwhile.
        num_alone: Those of them when it was the only one on the gang.
        lives: Lives of the gang that ended so.
        kind: Class of the last failure, for a row's error.
        reason: The last failure in words.
        limits: The limit of each way that was in force when it first was among too many for the memory.
    """

    num_attempts: int = 0
    num_failures: int = 0
    num_alone: int = 0
    lives: set[int] = field(default_factory=set)
    kind: str = ""
    reason: str = ""
    limits: dict[Way, int | None] = field(default_factory=dict)


class Caller:
    """Requests that wait together. Used by the one thread that waits.

    Args:
        requests: With different indices.
        take: Gets what becomes of each.
    """

    def __init__(self, requests: Sequence[Request], take: TakeReply) -> None:
        self._open = {request.index: request for request in requests}
        self._records = {request.index: Record() for request in requests}
        self._take = take
        self._failed_together: tuple[int, ...] = ()

    def open_of(self, keys: Iterable[int] | None = None) -> list[Request]:
        """Requests that wait, of some or of all."""
        return [self._open[key] for key in (list(self._open) if keys is None else keys) if key in self._open]

    def record(self, key: int) -> Record:
        """What happened to a request."""
        return self._records[key]

    def unsuspected(self) -> list[Request]:
        """Requests that wait and may be sent together with anybody's."""
        return [request for key, request in self._open.items() if not self._is_suspect(key)]

    def too_large(self) -> list[int]:
        """Keys of those for which the memory was not enough although they were alone.

        They hold all others up, which are sent in small numbers because of them.
        """
        return [key for key in self._open if self._records[key].num_alone and self._records[key].limits]

    def bisection(self, max_row_deaths: int) -> Bisection:
        """How to find out about those that are too large, or else about all suspected ones."""
        suspects = self.too_large() or [key for key in self._open if self._is_suspect(key)]
        return Bisection(
            suspects,
            bad=[key for key in self._failed_together if key in suspects],
            max_alone=max_row_deaths,
            num_alone={key: self._records[key].num_alone for key in suspects},
        )

    def take(self, request: Request, answer: GenerateAnswer) -> None:
        """A request was answered."""
        self._records[request.index].num_attempts += 1
        error = RowError(kind="engine", reason=answer.error) if answer.error else None
        self._close(request, answer.completions, error)

    def convict(self, key: int) -> None:
        """A request brings the gang down whenever it is alone on it."""
        record = self._records[key]
        if record.kind == "gang":
            times = f"{record.num_alone} times" if record.num_alone > 1 else "once"
            what = f"the gang died {times} while it worked on this row alone; {record.reason}"
        else:
            what = record.reason
        self._close(self._open[key], (), RowError(kind=record.kind, reason=what))

    def count_attempts(self, keys: Collection[int]) -> None:
        """The gang worked on these and did not answer them."""
        for key in keys:
            self._records[key].num_attempts += 1

    def note_limit(self, keys: Collection[int], way: Way, most: int | None) -> None:
        """The memory was not enough for these and others, with that limit."""
        for key in keys:
            self._records[key].limits.setdefault(way, most)

    def blame(self, failure: GangFailed) -> None:
        """The gang failed, and any of the requests that it worked on may be the reason.

        Args:
            failure: What happened. If the gang goes on it was no accident of the machines, and nothing is lost by
                looking at the requests apart at once.
        """
        for key in failure.on_gang:
            record = self._records[key]
            record.num_failures += _SUSPECT_AFTER if failure.life is None else 1
            record.num_alone += failure.num_on_gang == 1
            record.lives |= set() if failure.life is None else {failure.life}
            record.kind = "engine" if failure.life is None or is_out_of_memory(failure.error) else "gang"
            record.reason = in_words(failure.error)
        is_ours = failure.num_on_gang == len(failure.on_gang)
        self._failed_together = tuple(failure.on_gang) if is_ours else ()

    def _is_suspect(self, key: int) -> bool:
        record = self._records[key]
        return record.num_failures >= _SUSPECT_AFTER or record.num_alone > 0

    def _close(self, request: Request, completions: tuple[Completion, ...], error: RowError | None) -> None:
        del self._open[request.index]
        num_attempts = self._records[request.index].num_attempts
        self._take(request, Reply(completions=completions, error=error, num_attempts=num_attempts))
