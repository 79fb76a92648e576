"""Which request is whose: each is sent once and answered once. Pure: no threads, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from raydsinfer.engines.base import Advance, GenerateAnswer, GenerateRequest
from raydsinfer.errors import EngineError

Owner = TypeVar("Owner")


@dataclass(frozen=True)
class _Entry(Generic[Owner]):
    owner: Owner
    key: int  # the owner's own


@dataclass(frozen=True)
class Dropped(Generic[Owner]):
    """An owner whose requests were forgotten.

    Args:
        owner: The owner.
        sent: Its own keys of those that the engine had.
    """

    owner: Owner
    sent: tuple[int, ...]


class Ledger(Generic[Owner]):
    """The requests that are not answered yet, of all that wait.

    Owners number their requests themselves; here each gets a key of its own, which is never used twice.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry[Owner]] = {}
        self._unsent: list[GenerateRequest] = []
        self._next_key = 0

    @property
    def num_unanswered(self) -> int:
        """Requests that were added and are not answered."""
        return len(self._entries)

    @property
    def num_sent(self) -> int:
        """Requests that the engine has and has not answered."""
        return len(self._entries) - len(self._unsent)

    def add(self, requests: Sequence[GenerateRequest], owner: Owner) -> None:
        """Take on requests.

        Args:
            requests: Their keys are the owner's.
            owner: Whom `settle` and `drop` name.
        """
        for request in requests:
            self._entries[self._next_key] = _Entry(owner, request.key)
            self._unsent.append(replace(request, key=self._next_key))
            self._next_key += 1

    def take_unsent(self, most: int | None = None) -> list[GenerateRequest]:
        """Those that the engine has not seen, in the order in which they were added. They count as sent.

        Args:
            most: Requests that the engine may have; None: any number.
        """
        room = len(self._unsent) if most is None else max(0, most - self.num_sent)
        taken, self._unsent = self._unsent[:room], self._unsent[room:]
        return taken

    def settle(self, advance: Advance) -> list[tuple[Owner, GenerateAnswer]]:
        """Whose the answers are, under the owners' own keys.

        Raises:
            EngineError: An answer belongs to no request, or the engine is done and has left some out.
        """
        keys = [answer.key for answer in advance.answers]
        if len(self._entries.keys() & keys) < len(keys):
            raise EngineError(doing="advance", reason="the engine answered what nobody asks, or answered it twice")
        num_lost = self.num_sent - len(keys)
        if num_lost and not advance.num_running and not advance.num_waiting:
            raise EngineError(doing="advance", reason=f"the engine is done but left {num_lost} requests unanswered")
        entries = [self._entries.pop(key) for key in keys]
        return [
            (entry.owner, replace(answer, key=entry.key))
            for entry, answer in zip(entries, advance.answers, strict=True)
        ]

    def drop(self, *, sent_only: bool) -> list[Dropped[Owner]]:
        """Forget the requests of all owners, or of those that the engine has something of.

        Args:
            sent_only: Keep those of owners of whom nothing was sent.

        Returns:
            The owners, each once.
        """
        unsent = {request.key for request in self._unsent}
        owners: dict[int, tuple[Owner, list[int]]] = {}
        for key, entry in self._entries.items():
            sent = owners.setdefault(id(entry.owner), (entry.owner, []))[1]
            sent += [entry.key] if key not in unsent else []
        dropped = {number: found for number, found in owners.items() if found[1] or not sent_only}
        self._entries = {key: entry for key, entry in self._entries.items() if id(entry.owner) not in dropped}
        self._unsent = [request for request in self._unsent if request.key in self._entries]
        return [Dropped(owner, tuple(sent)) for owner, sent in dropped.values()]
