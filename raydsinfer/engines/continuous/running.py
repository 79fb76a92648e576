"""The sequences that hold a slot and pages, and the pages that they compute for each other."""

from __future__ import annotations

import heapq

from raydsinfer.engines.continuous.pages import PagePool
from raydsinfer.engines.continuous.plan import Limits
from raydsinfer.engines.continuous.sequences import SequenceState


class RunningSet:
    """Running sequences in order of admission.

    Attributes:
        pool: The pages.
        num_reserved: Pages that all would hold if each reached its full length and shared none.
        num_shared_tokens: Positions that were taken from known pages instead of being computed, so far.
    """

    def __init__(self, limits: Limits) -> None:
        self.pool = PagePool(limits.num_pages)
        self.num_reserved = 0
        self.num_shared_tokens = 0
        self._limits = limits
        self._slots = list(range(limits.max_running))  # a heap: the lowest is taken first
        self._running: dict[SequenceState, None] = {}  # in order of admission
        self._promised: dict[bytes, SequenceState] = {}  # names of pages that a running prefill will publish

    def __len__(self) -> int:
        return len(self._running)

    def states(self) -> list[SequenceState]:
        """All of them, the one admitted first in front."""
        return list(self._running)

    @property
    def num_free_slots(self) -> int:
        """Sequences that could start as far as slots go."""
        return len(self._slots)

    def known_pages(self, state: SequenceState) -> list[int] | None:
        """Pages that a sequence can take over; None if it should wait for one that is being computed.

        The page of its last input token is never taken: that token has to be computed, for it samples.
        """
        if not self._limits.share_prefixes:
            return []
        if state.awaits and state.awaits in self._promised:
            return None
        state.name_pages(self._limits.page_size)
        names = state.names[: (len(state.inputs) - 1) // self._limits.page_size]
        pages = self.pool.known(names)
        if len(pages) < len(names) and names[len(pages)] in self._promised:
            state.awaits = names[len(pages)]
            return None
        state.awaits = b""
        return pages

    def num_new_pages(self, state: SequenceState, shared: list[int]) -> int:
        """Pages that its prefill writes."""
        return -(-len(state.inputs) // self._limits.page_size) - len(shared)

    def num_full_pages(self, state: SequenceState) -> int:
        """Pages that it holds at its full length."""
        return -(-(len(state.prompt) + state.max_new_tokens - 1) // self._limits.page_size)

    def start(self, state: SequenceState, shared: list[int]) -> None:
        """Give a sequence a slot and the pages of its prefill; there must be enough of both."""
        new = self.num_new_pages(state, shared)
        self.pool.share(state.table, shared)
        if not self.pool.grow(state.table, new):
            raise ValueError(f"sequence {state.number} needs {new} pages, {self.pool.num_available} are available")
        state.slot = heapq.heappop(self._slots)
        state.num_published = len(shared)
        state.num_computed = len(shared) * self._limits.page_size
        self.num_shared_tokens += state.num_computed
        self.num_reserved += self.num_full_pages(state)
        self._running[state] = None
        for name in state.names[len(shared) : len(state.inputs) // self._limits.page_size]:
            self._promised.setdefault(name, state)

    def publish(self, state: SequenceState) -> bool:
        """Make the full pages known that hold named tokens and are computed; whether there were new ones."""
        first = state.num_published
        last = min(state.num_computed // self._limits.page_size, len(state.names))
        for index in range(first, last):
            self.pool.publish(state.table.pages[index], state.names[index])
            self._withdraw(state, state.names[index])
        state.num_published = last
        return last > first

    def stop(self, state: SequenceState) -> None:
        """Take slot and pages from a sequence."""
        for name in state.names[state.num_published :]:
            self._withdraw(state, name)
        self.pool.release(state.table)
        self.num_reserved -= self.num_full_pages(state)
        heapq.heappush(self._slots, state.slot)
        state.slot = -1
        state.num_computed = 0
        del self._running[state]

    def preempt_youngest(self) -> SequenceState:
        """Stop the sequence that was admitted last; what it computed stays known while nobody needs the room."""
        state = next(reversed(self._running))
        if self._limits.share_prefixes:
            state.prepare()
            state.name_pages(self._limits.page_size)
            self.publish(state)
        self.stop(state)
        state.was_preempted = True
        return state

    def _withdraw(self, state: SequenceState, name: bytes) -> None:
        if self._promised.get(name) is state:
            del self._promised[name]
