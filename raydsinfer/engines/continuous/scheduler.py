"""Decides what each step computes. Pure policy: no torch, no clock, no chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from raydsinfer.engines.continuous.admission import Admission
from raydsinfer.engines.continuous.plan import Chunk, Limits, StepPlan
from raydsinfer.engines.continuous.running import RunningSet
from raydsinfer.engines.continuous.sequences import SequenceState, WaitingQueue


class Scheduler:
    """Plans steps over sequences that come and go; equal calls in equal order give equal plans.

    A step gives one token to every running sequence whose prompt is computed, and fills what is left of
    `max_step_tokens` with prompts in order of admission, the last one in part. When a decode row finds no page,
    the sequence that was admitted last gives up its own, waits in front and is computed again later.

    The next step may be planned before the last one is committed: plans name device tokens, not values. A
    sequence that turns out to have ended has then been planned once too often, which `commit` ignores. Its
    pages are free at once all the same, since the device carries out steps in order.

    Attributes:
        num_preempted: Preemptions so far.
    """

    def __init__(self, limits: Limits) -> None:
        self.num_preempted = 0
        self._limits = limits
        self._running = RunningSet(limits)
        self._waiting = WaitingQueue()
        self._admission = Admission(limits, self._running, self._waiting)
        self._prefilling: list[SequenceState] = []  # running, prompt not planned to its end
        self._in_flight: deque[tuple[StepPlan, list[SequenceState]]] = deque()  # with the sequences that sample
        self._states: dict[int, SequenceState] = {}  # until `take`
        self._num_added = self._num_planned = 0

    def emptied(self) -> Scheduler:
        """Another one with the same limits, which knows nothing: neither sequences nor pages."""
        return Scheduler(self._limits)

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that do not, and have not ended."""
        return len(self._waiting)

    @property
    def num_shared_tokens(self) -> int:
        """Positions that were taken from known pages instead of being computed, so far."""
        return self._running.num_shared_tokens

    def add(self, sequence: int, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Let a sequence wait for its turn.

        Args:
            sequence: Its number, unique until it is taken.
            prompt: Tokens of the prompt.
            max_new_tokens: Tokens that it may generate.

        Raises:
            RowError: It is empty, may generate nothing, or is too long for the whole KV cache.
            ValueError: The number is in use.
        """
        if sequence in self._states:
            raise ValueError(f"sequence {sequence} was added before and has not been taken")
        self._limits.check(len(prompt), max_new_tokens)
        state = SequenceState(sequence, self._num_added, tuple(prompt), max_new_tokens)
        self._num_added += 1
        self._states[sequence] = state
        self._waiting.append(state)

    def plan(self) -> StepPlan | None:
        """The next step; None if nothing can be planned, now or before the next commit."""
        sampling: list[SequenceState] = []
        chunks = self._decode_chunks(sampling)
        budget = self._limits.max_step_tokens - len(chunks)
        unfilled = sum([len(state.inputs) - state.num_computed for state in self._prefilling])
        admitted = self._admission.admit(budget - unfilled)
        self._prefilling += admitted
        if self._prefilling:
            chunks += self._prefill_chunks(budget, sampling)
        if not chunks:
            return None
        plan = StepPlan(self._num_planned, tuple(chunks), tuple([state.number for state in admitted]))
        self._num_planned += 1
        self._in_flight.append((plan, sampling))
        return plan

    def commit(self, plan: StepPlan, tokens: Mapping[int, int], stopped: Collection[int]) -> tuple[int, ...]:
        """Take in what a step sampled.

        Args:
            plan: The earliest that is not committed.
            tokens: Sequence → token sampled for it. Those of sequences that had ended before are ignored.
            stopped: Sequences that end with that token.

        Returns:
            Sequences that ended now, in the order of the plan. Their slots and pages are free.

        Raises:
            ValueError: Another plan is the earliest.
        """
        if not self._in_flight or self._in_flight[0][0] is not plan:
            raise ValueError(f"step {plan.index} is not the earliest that waits for its tokens")
        _, sampling = self._in_flight.popleft()
        stops = frozenset(stopped)
        ended = []
        for state in sampling:
            if state.has_ended:
                continue
            state.generated.append(tokens[state.number])
            if len(state.generated) == state.max_new_tokens or state.number in stops:
                self._end(state)
                ended.append(state.number)
        return tuple(ended)

    def generated(self, sequence: int) -> list[int]:
        """Committed new tokens of a sequence that was not taken yet."""
        return self._states[sequence].generated

    def take(self, sequence: int) -> list[int]:
        """New tokens of a sequence that has ended; forgets it.

        Raises:
            ValueError: It has not ended.
        """
        if not self._states[sequence].has_ended:
            raise ValueError(f"sequence {sequence} has not ended")
        return self._states.pop(sequence).generated

    def _decode_chunks(self, sampling: list[SequenceState]) -> list[Chunk]:
        page_size = self._limits.page_size
        chunks = []
        for state in self._running.states():
            start = state.num_computed
            # Nothing is computed of one that was preempted for the sake of a row before.
            if start < len(state.inputs) or state.num_sampled == state.max_new_tokens:
                continue
            pages = state.table.pages
            if start == len(pages) * page_size and not self._grow(state):
                continue
            chunks.append(Chunk(state.number, state.slot, start, 1, (), True, pages))
            state.num_computed = start + 1
            state.num_sampled += 1
            sampling.append(state)
        return chunks

    def _grow(self, state: SequenceState) -> bool:
        """Give a sequence one more page, if need be from the youngest; False if that is the sequence itself."""
        while not self._running.pool.grow(state.table):
            youngest = self._running.preempt_youngest()
            self.num_preempted += 1
            self._waiting.put_back([youngest])
            self._admission.memory_ran_out()
            if youngest in self._prefilling:
                self._prefilling.remove(youngest)
            if youngest is state:
                return False
        return True

    def _prefill_chunks(self, budget: int, sampling: list[SequenceState]) -> list[Chunk]:
        chunks = []
        for state in self._prefilling:
            start, inputs = state.num_computed, state.inputs
            end = min(start + budget, len(inputs))
            if end == start:
                break
            samples = end == len(inputs)
            chunks.append(
                Chunk(state.number, state.slot, start, end - start, inputs[start:end], samples, state.table.pages)
            )
            budget -= end - start
            state.num_computed = end
            if samples:
                state.num_sampled += 1
                sampling.append(state)
            # Nobody looks for pages before the next plan, and by then this step is on its way.
            if self._running.publish(state):
                self._admission.reconsider()
        self._prefilling = [state for state in self._prefilling if state.num_computed < len(state.inputs)]
        return chunks

    def _end(self, state: SequenceState) -> None:
        state.has_ended = True
        if state.slot < 0:  # preempted after this token was planned
            self._waiting.remove(state)
        else:
            self._running.stop(state)
        self._admission.share.learn(len(state.generated), state.max_new_tokens)
        self._admission.reconsider()
