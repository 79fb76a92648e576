"""The loop: requests become sequences, steps are planned ahead of the device, finished sequences become answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from raydsinfer.engines.base import Advance, Completion, FinishReason, GenerateAnswer, GenerateRequest
from raydsinfer.engines.continuous.executor import Executor, Launched
from raydsinfer.engines.continuous.plan import StepPlan
from raydsinfer.engines.continuous.sampling.sampler import Sampler
from raydsinfer.engines.continuous.sampling.seeds import child_seed
from raydsinfer.engines.continuous.sampling.stops import StopRule
from raydsinfer.engines.continuous.scheduler import Scheduler
from raydsinfer.engines.continuous.statistics import Statistics
from raydsinfer.errors import RowError

Decode = Callable[[Sequence[int]], str]


@dataclass
class _Sequence:
    """One of a request's sequences while it is worked on."""

    request: GenerateRequest
    index: int
    stop_rule: StopRule
    reason: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)


class Batcher:
    """Continuous batching on one rank. All ranks make the same calls and so take the same steps.

    The host plans and launches a step before it knows the tokens of the one before, so that the device never
    waits for it. A sequence that ended meanwhile is computed once too often; that token is dropped.

    Args:
        scheduler: Decides what a step computes.
        executor: Computes it.
        sampler: The executor's; learns of each sequence that gets a slot.
        vocab_size: Tokens that the model knows.
        eos_ids: Tokens that end a sequence.
        decode: Token ids to text, for stop strings.
        longest_first: Of requests that come in one call, start those first that may generate most: a long one
            that starts last would run alone in the end.
        statistics: Counts steps and seconds.

    Attributes:
        on_step: Called after each step that the device is done with.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        executor: Executor,
        sampler: Sampler,
        vocab_size: int,
        eos_ids: Collection[int],
        decode: Decode,
        longest_first: bool,
        statistics: Statistics,
    ) -> None:
        self._scheduler, self._executor, self._sampler = scheduler, executor, sampler
        self._eos_ids, self._decode, self._statistics = eos_ids, decode, statistics
        self._vocab_size = vocab_size
        self._longest_first = longest_first
        self._sequences: dict[int, _Sequence] = {}
        self._finished: dict[int, dict[int, Completion]] = {}  # by request, then by index
        self._in_flight: tuple[StepPlan, Launched] | None = None
        self._next_sequence = 0
        self.on_step: Callable[[], None] = lambda: None

    def advance(self, requests: Sequence[GenerateRequest], num_steps: int) -> Advance:
        """See `Engine.advance`. One step may still be on its way when this returns, if there is more to do."""
        try:
            return self._advance(requests, num_steps)
        except Exception:
            self.forget()
            raise

    def forget(self) -> None:
        """Lose requests that are not answered, and what is known of the KV cache: what comes next starts anew."""
        self._scheduler = self._scheduler.emptied()
        self._sequences, self._finished, self._in_flight = {}, {}, None

    def _advance(self, requests: Sequence[GenerateRequest], num_steps: int) -> Advance:
        answers: list[GenerateAnswer] = []
        if self._longest_first:
            requests = sorted(requests, key=lambda request: -request.generation.max_new_tokens)
        for request in requests:
            self._take_on(request, answers)
        steps = 0
        while steps < num_steps:
            with self._statistics.timed("schedule"):
                plan = self._scheduler.plan()
            if plan is None and self._in_flight is None:
                break
            launched = None if plan is None else self._launch(plan)
            self._finish_step(answers)
            if plan is not None and launched is not None:
                self._in_flight = (plan, launched)
                steps += 1
        if not self._scheduler.num_running + self._scheduler.num_waiting:
            self._finish_step(answers)
        self._statistics.preemptions = self._scheduler.num_preempted
        self._statistics.shared_tokens = self._scheduler.num_shared_tokens
        return Advance(
            answers=tuple(answers),
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_steps=steps,
        )

    def _take_on(self, request: GenerateRequest, answers: list[GenerateAnswer]) -> None:
        generation = request.generation
        first = self._next_sequence
        try:
            self._check_tokens(request.token_ids)
            for index in range(generation.num_return_sequences):
                self._scheduler.add(first + index, request.token_ids, generation.max_new_tokens)
        except RowError as error:  # the first one is refused, or none
            answers.append(GenerateAnswer(key=request.key, error=str(error)))
            return
        for index in range(generation.num_return_sequences):
            rule = StopRule(generation, self._eos_ids, self._decode)
            self._sequences[first + index] = _Sequence(request, index, rule)
        self._next_sequence += generation.num_return_sequences

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        """Refuse what would be an error on the device, and with it the end of all that is there."""
        if strange := [token for token in token_ids if not 0 <= token < self._vocab_size]:
            reason = f"token {strange[0]} of the prompt is not among the model's {self._vocab_size} tokens"
            raise RowError(kind="prompt", reason=reason)

    def _launch(self, plan: StepPlan) -> Launched:
        with self._statistics.timed("launch"):
            admitted = set(plan.admitted)
            for chunk in plan.chunks:
                if chunk.sequence in admitted:
                    self._admit(chunk.sequence, chunk.slot)
            launched = self._executor.launch(plan)
        self._count(plan)
        return launched

    def _admit(self, number: int, slot: int) -> None:
        sequence = self._sequences[number]
        request = sequence.request
        self._sampler.admit(
            slot,
            [*request.token_ids, *self._scheduler.generated(number)],
            len(request.token_ids),
            request.generation,
            child_seed(request.seed, sequence.index),
        )

    def _finish_step(self, answers: list[GenerateAnswer]) -> None:
        """Wait for the step that is on its way, and take its tokens in."""
        if self._in_flight is None:
            return
        plan, launched = self._in_flight
        self._in_flight = None
        with self._statistics.timed("wait"):
            tokens, logprobs = launched.wait()
        self.on_step()
        with self._statistics.timed("commit"):
            self._commit(plan, launched.sequences, tokens, logprobs, answers)

    def _commit(
        self,
        plan: StepPlan,
        numbers: tuple[int, ...],
        tokens: list[int],
        logprobs: list[float] | None,
        answers: list[GenerateAnswer],
    ) -> None:
        stopped = []
        for place, number in enumerate(numbers):
            sequence = self._sequences.get(number)
            if sequence is None:  # it ended in the step before
                continue
            sequence.reason = sequence.stop_rule.finish_reason(self._scheduler.generated(number), tokens[place])
            if sequence.request.generation.return_logprobs and logprobs is not None:
                sequence.logprobs.append(logprobs[place])
            if sequence.reason is not None:
                stopped.append(number)
        for number in self._scheduler.commit(plan, dict(zip(numbers, tokens, strict=True)), stopped):
            self._answer(number, answers)

    def _answer(self, number: int, answers: list[GenerateAnswer]) -> None:
        sequence = self._sequences.pop(number)
        request = sequence.request
        token_ids = tuple(self._scheduler.take(number))
        completion = Completion(token_ids, sequence.reason or "length", tuple(sequence.logprobs))
        completions = self._finished.setdefault(request.key, {})
        completions[sequence.index] = completion
        if len(completions) == request.generation.num_return_sequences:
            del self._finished[request.key]
            ordered = tuple(completions[index] for index in range(len(completions)))
            answers.append(GenerateAnswer(key=request.key, completions=ordered))

    def _count(self, plan: StepPlan) -> None:
        counts = self._statistics
        prompts = [chunk.length for chunk in plan.chunks if not chunk.is_decode]
        counts.steps += 1
        counts.prefill_steps += bool(prompts)
        counts.prefill_tokens += sum(prompts)
        counts.decode_tokens += len(plan.chunks) - len(prompts)
        counts.running_sum += self._scheduler.num_running
