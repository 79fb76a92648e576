"""What the scheduler knows of a sequence, and the queue of those that wait."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from raydsinfer.engines.continuous.pages import PageTable
from raydsinfer.engines.continuous.prefixes import extend_chain


@dataclass(slots=True, eq=False)
class SequenceState:
    """State of one sequence.

    Args:
        number: The caller's number for it.
        arrival: Its place in the order of arrival.
        prompt: Tokens of the prompt.
        max_new_tokens: Tokens that it may generate.

    Attributes:
        inputs: What its prefill computes: the prompt, after a preemption also the tokens generated so far.
        generated: New tokens that were committed.
        num_computed: Positions whose keys and values are computed once all plans are carried out.
        num_sampled: New tokens that plans sample, committed or not.
        slot: Its slot while it runs, else -1.
        names: Names of the full pages of its tokens, as far as they were needed.
        num_published: Pages that it made known, or took because they were.
        awaits: Name of a page that it will share and that another sequence is computing.
        was_preempted: Whether it has run before.
        has_ended: Whether its last token is committed.
    """

    number: int
    arrival: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    inputs: tuple[int, ...] = ()
    generated: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_sampled: int = 0
    slot: int = -1
    table: PageTable = field(default_factory=PageTable)
    names: list[bytes] = field(default_factory=list)
    num_published: int = 0
    awaits: bytes = b""
    was_preempted: bool = False
    has_ended: bool = False

    def __post_init__(self) -> None:
        self.inputs = self.prompt

    @property
    def is_settled(self) -> bool:
        """Whether every sampled token is committed."""
        return self.num_sampled == len(self.generated)

    def num_expected(self, share: float) -> int:
        """Positions that it is expected to store beyond those of its prefill and of the steps planned so far.

        Args:
            share: How much of what they may generate sequences do. One that has outlived the share is expected
                to generate one token more.
        """
        total = math.ceil(share * self.max_new_tokens)
        if total <= self.num_sampled:
            total = min(self.num_sampled + 1, self.max_new_tokens)
        filled = len(self.inputs)
        # The last token is never stored: nothing is computed from it.
        return len(self.prompt) + total - 1 - (self.num_computed if self.num_computed > filled else filled)

    def prepare(self) -> None:
        """Set what a prefill computes, before a start; all its tokens are committed."""
        if len(self.inputs) != len(self.prompt) + len(self.generated):
            self.inputs = self.prompt + tuple(self.generated)

    def name_pages(self, page_size: int) -> None:
        """Name the full pages of `inputs`, once."""
        if len(self.names) < len(self.inputs) // page_size:
            extend_chain(self.names, self.inputs, page_size)


class WaitingQueue:
    """Preempted sequences in order of arrival, then new ones in order of arrival."""

    def __init__(self) -> None:
        self._preempted: list[SequenceState] = []
        self._new: deque[SequenceState] = deque()

    def __len__(self) -> int:
        return len(self._preempted) + len(self._new)

    def __iter__(self) -> Iterator[SequenceState]:
        return chain(self._preempted, self._new)

    def first(self, num: int) -> list[SequenceState]:
        """The first `num`, which stay."""
        return list(islice(self, num))

    def pop(self) -> SequenceState:
        """Take out the first."""
        return self._preempted.pop(0) if self._preempted else self._new.popleft()

    def append(self, sequence: SequenceState) -> None:
        """Add a new one at the end."""
        self._new.append(sequence)

    def put_back(self, sequences: Iterable[SequenceState]) -> None:
        """Return sequences, given in order, to their places: preempted ones, or ones that were popped."""
        for sequence in reversed(list(sequences)):
            if sequence.was_preempted:
                insort(self._preempted, sequence, key=_arrival)
            else:
                self._new.appendleft(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Take out a preempted one."""
        self._preempted.remove(sequence)


def _arrival(sequence: SequenceState) -> int:
    return sequence.arrival
