"""The loop, with the real scheduler and sampler, and a model that is a function of a sequence's tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Advance, Completion, GenerateAnswer, GenerateRequest
from raydsinfer.engines.continuous.batcher import Batcher
from raydsinfer.engines.continuous.executor import Launched
from raydsinfer.engines.continuous.plan import Limits, StepPlan
from raydsinfer.engines.continuous.sampling.sampler import Sampled, Sampler
from raydsinfer.engines.continuous.sampling.seeds import child_seed
from raydsinfer.engines.continuous.scheduler import Scheduler
from raydsinfer.engines.continuous.statistics import Statistics

VOCAB, EOS, MAX_TOKENS = 27, 26, 64


def logits_of(token_ids: Sequence[int]) -> torch.Tensor:
    """The model: logits (vocabulary,) of the next token."""
    chance = torch.Generator().manual_seed(hash(tuple(token_ids)) % 2**31)
    return torch.randn(VOCAB, generator=chance) * 2


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + token) for token in token_ids)


class Step(Launched):
    """A step that notes when it is waited for."""

    def __init__(self, index: int, events: list[str], sequences: tuple[int, ...], sampled: Sampled) -> None:
        super().__init__(sequences, sampled, on_gpu=False)
        self.index, self.events = index, events

    def wait(self) -> tuple[list[int], list[float] | None]:
        self.events.append(f"wait {self.index}")
        return super().wait()


class Model:
    """Executes plans: reads what the sampler knows of each slot, as a device would."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.events, self.plans = sampler, [], []  # type: ignore[var-annotated]

    def launch(self, plan: StepPlan) -> Step:
        self.events.append(f"launch {plan.index}")
        self.plans.append(plan)
        self.sampler.flush()
        chunks = [chunk for chunk in plan.chunks if chunk.samples]
        if not chunks:
            return Step(plan.index, self.events, (), Sampled(torch.zeros(0, dtype=torch.int64)))
        ends = [chunk.start + chunk.length for chunk in chunks]
        slots = [chunk.slot for chunk in chunks]
        known = [self.sampler.history[slot, :end].tolist() for slot, end in zip(slots, ends, strict=True)]
        logits = torch.stack([logits_of(token_ids) for token_ids in known])
        sampled = self.sampler.sample(logits, torch.tensor(slots), torch.tensor(ends), slots)
        return Step(plan.index, self.events, tuple(chunk.sequence for chunk in chunks), sampled)

    def num_computed(self, sequence: int) -> int:
        return sum(chunk.length for plan in self.plans for chunk in plan.chunks if chunk.sequence == sequence)


def make_sampler(num_slots: int) -> Sampler:
    return Sampler(num_slots=num_slots, max_tokens=MAX_TOKENS, vocab_size=VOCAB, device="cpu", eos_ids=[EOS])


class Loop:
    """A batcher and its parts."""

    def __init__(self, *, longest_first: bool = False, **limits: Any) -> None:
        settings = {"max_running": 4, "max_step_tokens": 16, "num_pages": 32, "page_size": 4} | limits
        self.scheduler = Scheduler(Limits(**settings))
        sampler = make_sampler(settings["max_running"])
        self.model, self.statistics = Model(sampler), Statistics()
        self.batcher = Batcher(
            scheduler=self.scheduler,
            executor=self.model,  # type: ignore[arg-type]
            sampler=sampler,
            vocab_size=VOCAB,
            eos_ids=[EOS],
            decode=decode,
            statistics=self.statistics,
            longest_first=longest_first,
        )

    def finish(self, requests: Sequence[GenerateRequest], *, a_call: int = 10**9, num_steps: int = 3) -> Any:
        """All answers; `a_call` requests come with each call."""
        waiting, answers, done = list(requests), [], Advance()
        while waiting or done.num_running + done.num_waiting:
            done = self.batcher.advance(waiting[:a_call], num_steps)
            del waiting[:a_call]
            assert done.num_steps <= num_steps
            answers += done.answers
        return answers


def ask(key: int, prompt: Sequence[int] = (1, 2, 3), *, seed: int = 0, **settings: Any) -> GenerateRequest:
    generation = GenerationConfig(**{"max_new_tokens": 12, **settings})
    return GenerateRequest(key=key, token_ids=tuple(prompt), generation=generation, seed=seed)


def alone(request: GenerateRequest) -> tuple[Completion, ...]:
    """What a request gives by itself: token by token, in one slot, text and ends looked at in the plainest way."""
    generation, completions = request.generation, []
    for index in range(generation.num_return_sequences):
        sampler, tokens, logprobs = make_sampler(1), list(request.token_ids), []
        sampler.admit(0, tokens, len(tokens), generation, child_seed(request.seed, index))
        new: list[int] = []
        while True:
            position = len(request.token_ids) + len(new)
            logits = logits_of([*request.token_ids, *new])[None]
            sampled = sampler.sample(logits, torch.tensor([0]), torch.tensor([position]), [0])
            new.append(int(sampled.tokens[0]))
            if sampled.logprobs is not None:
                logprobs.append(float(sampled.logprobs[0]))
            stopped = new[-1] == EOS or any(stop in decode(new) for stop in generation.stop_list)
            if stopped or len(new) == generation.max_new_tokens:
                break
        completions.append(Completion(tuple(new), "stop" if stopped else "length", tuple(logprobs)))
    return tuple(completions)


def prompt_that(ends: bool, num_new: int = 12) -> tuple[int, ...]:
    """A prompt that is answered with an end of sequence, neither first nor last, or with none."""
    for number in range(10_000):
        prompt = (number % 26, number // 26 % 26, number // 676)
        [completion] = alone(ask(0, prompt, max_new_tokens=num_new))
        if completion.finish_reason == "stop" and 3 <= len(completion.token_ids) < num_new - 2 and ends:
            return prompt
        if completion.finish_reason == "length" and not ends:
            return prompt
    raise AssertionError("there is none")


def test_a_step_is_launched_before_the_one_before_is_waited_for() -> None:
    loop = Loop()
    prompt = prompt_that(ends=False)
    loop.finish([ask(0, prompt)], num_steps=5)
    assert loop.model.events == [
        "launch 0",
        *(event for step in range(1, 12) for event in (f"launch {step}", f"wait {step - 1}")),
        "wait 11",
    ]


def test_the_token_behind_an_end_of_sequence_is_dropped() -> None:
    loop, prompt = Loop(), prompt_that(ends=True)
    [answer] = loop.finish([ask(0, prompt)])
    assert answer.completions == alone(ask(0, prompt))
    [completion] = answer.completions
    assert completion.token_ids[-1] == EOS
    assert completion.finish_reason == "stop"
    # All but the last token are computed, and once too often what follows it.
    assert loop.model.num_computed(0) == len(prompt) + len(completion.token_ids)


def test_a_stop_string_that_spans_tokens_ends_a_sequence_with_its_last_one() -> None:
    prompt = prompt_that(ends=False)
    [whole] = alone(ask(0, prompt))
    stop = decode(whole.token_ids)[3:6]
    request = ask(0, prompt, stop_strings=["nothing of the kind", stop], return_logprobs=True)
    [answer] = Loop().finish([request])
    [completion] = answer.completions
    assert completion.token_ids == whole.token_ids[:6]
    assert completion.finish_reason == "stop"
    assert len(completion.logprobs) == 6


def test_sequences_of_a_request_come_in_order_and_with_streams_of_their_own() -> None:
    request = ask(0, num_return_sequences=6, do_sample=True, top_k=0, seed=9)
    answers = {answer.key: answer.completions for answer in Loop(max_running=3).finish([ask(1), request])}
    assert answers[0] == alone(request)
    assert len(set(answers[0])) == 6
    assert alone(ask(0, do_sample=True, top_k=0, seed=9)) == answers[0][:1]


def test_log_probabilities_are_those_of_the_model() -> None:
    requests = [
        ask(0, return_logprobs=True),
        ask(1),
        ask(2, (4, 5), return_logprobs=True, do_sample=True, temperature=3.0, seed=4),
    ]
    answers = {answer.key: answer.completions[0] for answer in Loop().finish(requests)}
    assert answers[1].logprobs == ()
    for key in (0, 2):
        tokens = list(requests[key].token_ids)
        assert len(answers[key].logprobs) == len(answers[key].token_ids)
        for token, logprob in zip(answers[key].token_ids, answers[key].logprobs, strict=True):
            assert logprob == pytest.approx(float(logits_of(tokens).log_softmax(0)[token]), abs=1e-5)
            tokens.append(token)


def test_what_can_never_run_is_answered_at_once_and_harms_nobody() -> None:
    loop = Loop(num_pages=6)
    requests = [ask(0, range(20)), ask(1), ask(2, range(20), num_return_sequences=3, do_sample=True), ask(3, ())]
    first = loop.batcher.advance(requests, 0)
    errors = {answer.key: answer for answer in first.answers}
    assert errors.keys() == {0, 2, 3}
    assert "together 32, but the KV cache of the gang holds 24" in errors[0].error
    assert "the prompt has no tokens" in errors[3].error
    assert all(answer.completions == () for answer in first.answers)
    assert loop.finish([ask(4, (5, 6))]) == [
        GenerateAnswer(key=key, completions=alone(ask(key, prompt))) for key, prompt in ((1, (1, 2, 3)), (4, (5, 6)))
    ]


def test_a_token_that_the_model_does_not_know_is_answered_at_once_and_harms_nobody() -> None:
    loop = Loop()
    answers = loop.finish([ask(0, [1, VOCAB]), ask(1), ask(2, [-1])])
    errors = {answer.key: answer.error for answer in answers}
    assert f"token {VOCAB} of the prompt is not among the model's {VOCAB} tokens" in errors[0]
    assert "token -1" in errors[2]
    assert errors[1] == ""


def test_calls_end_after_their_steps_or_when_nothing_is_left() -> None:
    loop, prompt = Loop(), prompt_that(ends=False)
    assert loop.batcher.advance([], 5) == Advance()
    assert loop.batcher.advance([ask(0, prompt)], 0) == Advance(num_waiting=1)
    assert loop.batcher.advance([], 4) == Advance(num_running=1, num_steps=4)
    assert loop.batcher.advance([], 7) == Advance(num_running=1, num_steps=7)
    last = loop.batcher.advance([], 100)
    assert last.num_steps == 1
    assert (last.num_running, last.num_waiting) == (0, 0)
    assert last.answers == (GenerateAnswer(key=0, completions=alone(ask(0, prompt))),)
    assert loop.batcher.advance([], 5) == Advance()


def test_answers_come_as_they_are_finished_and_keys_can_be_used_again() -> None:
    loop, prompt = Loop(), prompt_that(ends=False)
    requests = [ask(7, prompt, max_new_tokens=9), ask(8, prompt, max_new_tokens=2), ask(9, prompt, max_new_tokens=5)]
    assert [answer.key for answer in loop.finish(requests)] == [8, 9, 7]
    [again] = loop.finish([ask(7, (4, 4))])
    assert again == GenerateAnswer(key=7, completions=alone(ask(7, (4, 4))))


@pytest.mark.parametrize("longest_first", [True, False])
def test_of_the_requests_of_a_call_the_longest_may_start_first(longest_first: bool) -> None:
    loop = Loop(longest_first=longest_first, max_running=1)
    lengths, prompt = [3, 9, 5, 9], prompt_that(ends=False)
    answers = loop.finish([ask(key, prompt, max_new_tokens=length) for key, length in enumerate(lengths)])
    assert [answer.key for answer in answers] == ([1, 3, 2, 0] if longest_first else [0, 1, 2, 3])
    assert all(len(answer.completions[0].token_ids) == lengths[answer.key] for answer in answers)


@pytest.mark.parametrize("method", ["launch", "wait"])
def test_after_an_error_what_was_unanswered_is_lost_and_new_requests_start_anew(method: str) -> None:
    loop, prompt = Loop(), prompt_that(ends=False)
    launch = loop.model.launch

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    def launch_and_fail(plan: StepPlan) -> Step:
        step = launch(plan)
        step.wait = fail  # type: ignore[method-assign]
        return step

    loop.batcher.advance([ask(0, prompt), ask(1, (1,), num_return_sequences=2, do_sample=True)], 3)
    loop.model.launch = fail if method == "launch" else launch_and_fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        loop.batcher.advance([ask(2, prompt)], 3)
    loop.model.launch = launch  # type: ignore[method-assign]
    request = ask(1, prompt, num_return_sequences=2, do_sample=True)
    assert loop.finish([request]) == [GenerateAnswer(key=1, completions=alone(request))]


def random_request(key: int, chance: random.Random) -> GenerateRequest:
    settings: dict[str, Any] = {"max_new_tokens": chance.randint(1, 12)}
    if chance.random() < 0.4:
        settings |= {"do_sample": True, "num_return_sequences": chance.randint(1, 3)}
    if chance.random() < 0.3:
        settings |= {"stop_strings": [chance.choice("abcdefghij") for _ in range(4)]}
    if chance.random() < 0.2:
        settings |= {"repetition_penalty": 1.5, "return_logprobs": True}
    prompt = [chance.randrange(2) for _ in range(chance.randint(1, 30))]
    return ask(key, prompt, seed=key % 5, **settings)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("a_call", "num_steps"), [(10**9, 1000), (3, 1), (1, 2)])
def test_every_request_is_answered_once_and_as_if_it_were_alone(a_call: int, num_steps: int, share: bool) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    requests = [random_request(key, chance) for key in range(120)]
    loop = Loop(num_pages=14, max_running=6, share_prefixes=share)
    answers = loop.finish(requests, a_call=a_call, num_steps=num_steps)
    assert sorted(answer.key for answer in answers) == list(range(120))
    found = {answer.key: answer.completions for answer in answers}
    for request in requests:
        for got, wanted in zip(found[request.key], alone(request), strict=True):
            assert (got.token_ids, got.finish_reason) == (wanted.token_ids, wanted.finish_reason)
            assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-5)
    counts = loop.statistics
    assert counts.preemptions > 0
    assert (counts.shared_tokens > 0) == share
    assert counts.steps == len(loop.model.plans)
    assert counts.prefill_tokens + counts.decode_tokens == sum(plan.num_tokens for plan in loop.model.plans)


def test_each_step_that_is_done_is_told() -> None:
    loop, done = Loop(), []
    loop.batcher.on_step = lambda: done.append(1)
    loop.finish([ask(0), ask(1)])
    assert len(done) == loop.statistics.steps


def test_after_forgetting_all_starts_anew() -> None:
    loop, prompt = Loop(), prompt_that(ends=False)
    loop.finish([ask(0, tuple(range(1, 20)), max_new_tokens=2)])
    loop.batcher.advance([ask(1, prompt)], 4)
    loop.batcher.forget()
    loop.statistics.reset()
    assert set(loop.statistics.as_dict().values()) == {0}
    assert loop.batcher.advance([], 5) == Advance()
    [again] = loop.finish([ask(1, tuple(range(1, 20)), max_new_tokens=2)])
    assert again == GenerateAnswer(key=1, completions=alone(ask(1, tuple(range(1, 20)), max_new_tokens=2)))
    assert loop.statistics.shared_tokens == 0, "nothing is left in the cache"
