"""The offline-generation workloads that every engine is measured on: prompts are token ids, drawn with fixed seeds.

Each request generates exactly its `new_tokens` greedily, so that engines do equal work. `uniform` is what a static
batch likes best. `mixed` has log-normal lengths, as real data sets have: what padding and stragglers hurt.
`shared_prefix` has one long beginning for all, as a task description before each row has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from raydsinfer.errors import InvalidSettingError

FIRST_TOKEN, LAST_TOKEN = 5, 50_000
"""Token ids are drawn from the first to below the last, which leaves special tokens out."""


@dataclass(frozen=True)
class BenchRequest:
    """One request.

    Args:
        prompt: Token ids.
        new_tokens: How many to generate, no more and no fewer.
    """

    prompt: tuple[int, ...]
    new_tokens: int

    @property
    def num_tokens(self) -> int:
        """Prompt and new tokens together."""
        return len(self.prompt) + self.new_tokens


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests that are given to an engine all at once.

    Args:
        name: In the table.
        requests: In the order in which they come.
        batch: Of `uniform`: the number of requests, which are one batch; 0 for other workloads.
        num_shared: Tokens that all prompts begin with.
        vocab_size: Token ids lie below it.
    """

    name: str
    requests: tuple[BenchRequest, ...]
    batch: int = 0
    num_shared: int = 0
    vocab_size: int = LAST_TOKEN

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(request.prompt) for request in self.requests)

    @property
    def num_new_tokens(self) -> int:
        """Of all answers."""
        return sum(request.new_tokens for request in self.requests)

    @property
    def longest(self) -> int:
        """Prompt plus new tokens of the longest request."""
        return max(request.num_tokens for request in self.requests)

    def shifted(self, by: int) -> Workload:
        """The same lengths and shared beginnings with other token ids; `by` = 0 changes nothing.

        Rounds of a measurement differ in this, so that no engine can answer from a cache of prompts.
        """
        if by == 0:
            return self
        span = min(LAST_TOKEN, self.vocab_size) - FIRST_TOKEN
        moved = tuple(
            replace(request, prompt=tuple(FIRST_TOKEN + (token - FIRST_TOKEN + by) % span for token in request.prompt))
            for request in self.requests
        )
        return replace(self, requests=moved)


def uniform(batch: int, *, vocab_size: int = LAST_TOKEN) -> Workload:
    """`batch` requests of 128 prompt tokens and 64 new ones.

    Args:
        batch: Number of requests.
        vocab_size: Token ids lie below it, and below 50,000.
    """
    requests = _requests([128] * batch, [64] * batch, vocab_size)
    return Workload(name=f"uniform {batch}", requests=requests, batch=batch, vocab_size=vocab_size)


def mixed(count: int = 512, *, vocab_size: int = LAST_TOKEN) -> Workload:
    """Log-normal lengths: prompts of 16 to 512 tokens, answers of 8 to 384.

    The first 512 have 60,239 prompt tokens and 53,396 new ones.

    Args:
        count: Number of requests.
        vocab_size: Token ids lie below it, and below 50,000.
    """
    rng = np.random.default_rng(1)
    prompts = np.clip(rng.lognormal(4.6, 0.7, count), 16, 512).astype(int)
    answers = np.clip(rng.lognormal(4.4, 0.8, count), 8, 384).astype(int)
    return Workload(name=f"mixed {count}", requests=_requests(prompts, answers, vocab_size), vocab_size=vocab_size)


def shared_prefix(count: int = 256, prefix: int = 512, *, vocab_size: int = LAST_TOKEN) -> Workload:
    """`count` requests whose prompts begin with the same `prefix` tokens, then 32 of their own; 64 new ones.

    Args:
        count: Number of requests.
        prefix: Tokens that they share.
        vocab_size: Token ids lie below it, and below 50,000.
    """
    first, *rest = _requests([prefix] + [32] * count, [64] * (count + 1), vocab_size)
    requests = tuple(BenchRequest(first.prompt + own.prompt, own.new_tokens) for own in rest)
    return Workload(name=f"shared-prefix {count}", requests=requests, num_shared=prefix, vocab_size=vocab_size)


def workloads_from(words: Iterable[str], batches: Iterable[int], *, vocab_size: int = LAST_TOKEN) -> list[Workload]:
    """Workloads by name.

    Args:
        words: ``uniform`` (one for each of `batches`), ``mixed`` or ``mixed:512``, ``shared-prefix`` or
            ``shared-prefix:256:512`` (requests, tokens that they share).
        batches: Of `uniform`.
        vocab_size: Token ids lie below it.

    Raises:
        InvalidSettingError: There is no such workload, or a number is wrong.
    """
    found: list[Workload] = []
    for word in dict.fromkeys(words):
        name, *numbers = word.split(":")
        if not all(number.isdecimal() and int(number) for number in numbers) or len(numbers) > _NUMBERS.get(name, -1):
            raise InvalidSettingError(name="workloads", value=word, expected=_EXPECTED)
        sizes = [int(number) for number in numbers]
        if name == "uniform":
            found += [uniform(batch, vocab_size=vocab_size) for batch in batches]
        elif name == "mixed":
            found.append(mixed(*sizes, vocab_size=vocab_size))
        else:
            found.append(shared_prefix(*sizes, vocab_size=vocab_size))
    return found


_NUMBERS = {"uniform": 0, "mixed": 1, "shared-prefix": 2}
_EXPECTED = "uniform, mixed, mixed:REQUESTS, shared-prefix or shared-prefix:REQUESTS:TOKENS"


def _requests(prompt_lengths: Iterable[int], new_tokens: Iterable[int], vocab_size: int) -> tuple[BenchRequest, ...]:
    rng, end = np.random.default_rng(0), min(LAST_TOKEN, vocab_size)
    return tuple(
        BenchRequest(tuple(rng.integers(FIRST_TOKEN, end, int(length)).tolist()), int(new))
        for length, new in zip(prompt_lengths, new_tokens, strict=True)
    )
