"""Which waiting sequences may start."""

from __future__ import annotations

from raydsinfer.engines.continuous.peak import LearntShare, PeakEstimate
from raydsinfer.engines.continuous.plan import Limits
from raydsinfer.engines.continuous.running import RunningSet
from raydsinfer.engines.continuous.sequences import SequenceState, WaitingQueue

# The estimate rounds to pages on average. With a page to spare for so many sequences, a simulated run of 2000
# rows whose lengths were known took 6 preemptions instead of 292, and 0.4 % more steps.
_SEQUENCES_A_SPARE_PAGE = 8


class Admission:
    """Starts waiting sequences in their order while slots, pages and the future peak of pages allow it.

    The first that does not fit ends the search: nobody overtakes it. Only a sequence whose next page is being
    computed by another is passed over; it keeps its place. Every answer follows from the calls made before.

    Attributes:
        share: What sequences generate of what they may.
    """

    def __init__(self, limits: Limits, running: RunningSet, waiting: WaitingQueue) -> None:
        self.share = LearntShare()
        self._limits = limits
        self._running = running
        self._waiting = waiting
        self._refused = False  # nothing changed since the first in the queue did not fit
        self._held_back = False  # until `min_admission` sequences can start together
        self._short_of_memory = False  # when that began
        self._estimate: PeakEstimate | None = None  # of this call

    def reconsider(self) -> None:
        """A sequence ended, or pages became known."""
        self._refused = False

    def memory_ran_out(self) -> None:
        """A sequence was preempted: nobody starts before there is something to reconsider."""
        self._refused = True

    def admit(self, budget: int) -> list[SequenceState]:
        """Start sequences whose prefills fill `budget` tokens of this step; the last one may not fit wholly."""
        self._estimate = None
        admitted: list[SequenceState] = []
        passed: list[SequenceState] = []
        if budget <= 0 or not self._is_open():
            return admitted
        while budget > 0 and self._waiting and len(passed) < self._limits.max_running:
            state = self._waiting.first(1)[0]
            if not self._running.num_free_slots:
                self._hold_back(short_of_memory=False)
                break
            if not state.is_settled:  # preempted in this step or the last: its last token is not known yet
                break
            state.prepare()
            shared = self._running.known_pages(state)
            if shared is None:
                passed.append(self._waiting.pop())
                continue
            if not self._fits([(state, shared)]):
                self._hold_back(short_of_memory=True)
                self._refused = True
                break
            self._running.start(self._waiting.pop(), shared)
            admitted.append(state)
            budget -= len(state.inputs) - state.num_computed
        self._waiting.put_back(passed)
        return admitted

    def _is_open(self) -> bool:
        """Whether it is worth looking at single sequences."""
        if self._refused or not self._waiting or not self._running.num_free_slots:
            return False
        if self._held_back:
            self._held_back = not self._enough_could_start()
            self._refused = self._held_back
        return not self._held_back

    def _hold_back(self, *, short_of_memory: bool) -> None:
        self._short_of_memory = short_of_memory
        self._held_back = self._limits.min_admission > 1

    def _enough_could_start(self) -> bool:
        """Whether `min_admission` could start together: fewer if fewer wait, or if fewer run than would start.

        Where it is memory that is short, an eighth of those that run will do: the KV cache holds few sequences
        then, and to wait for many to end would leave it empty meanwhile.
        """
        most = len(self._running) if not self._short_of_memory else max(1, len(self._running) // 8)
        num = min(self._limits.min_admission, len(self._waiting), most)
        if num > self._running.num_free_slots:
            return False
        group = []
        for state in self._waiting.first(num):
            if state.is_settled:
                state.prepare()
            group.append((state, self._running.known_pages(state) or []))
        return self._fits(group, keep=False)

    def _fits(self, group: list[tuple[SequenceState, list[int]]], *, keep: bool = True) -> bool:
        """Whether sequences, with the known pages that each would share, fit beside the running ones.

        `keep`: a single sequence that fits is going to start, and counts from now on.
        """
        pool = self._running.pool
        new = [self._running.num_new_pages(state, shared) for state, shared in group]
        kept = pool.num_kept(list({page for _, shared in group for page in shared}))
        if sum(new) + kept > pool.num_available:  # a cheap no
            return False
        # Alone it fits: that was checked when it was added. So it does if all could reach their full length.
        full = sum([self._running.num_full_pages(state) for state, _ in group])
        if not len(self._running) or self._running.num_reserved + full <= pool.num_pages:
            self._estimate = None
            return True
        estimate = self._estimated()
        for (state, _), held in zip(group, new, strict=True):
            estimate.add(held, state.num_expected(self.share.value))
        spare = (len(self._running) + len(group)) // _SEQUENCES_A_SPARE_PAGE
        fits = estimate.peak() + spare <= pool.num_pages - pool.num_common - kept
        if not (fits and keep):
            estimate.drop(len(group))
        return fits

    def _estimated(self) -> PeakEstimate:
        if self._estimate is None:
            states, share = self._running.states(), self.share.value
            self._estimate = PeakEstimate(
                [state.table.num_private for state in states],
                [state.num_expected(share) for state in states],
                capacity=self._limits.max_running,
                page_size=self._limits.page_size,
            )
        return self._estimate
