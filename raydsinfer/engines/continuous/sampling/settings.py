"""What a row's generation settings mean for choosing its tokens: pure, plain numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.seeds import wrapped

Value = TypeVar("Value")

NUM_TIED = 64
"""Tokens behind the `top_k` first ones that are looked at, for those as likely as the last of them: transformers
keeps all of these, and in 16 bits they are common. Of more than so many, those with the lowest ids are kept."""


def needs_static(generation: GenerationConfig) -> str:
    """Why these settings need a static batch; empty if continuous batching can do them."""
    if generation.num_beams > 1:
        return f"num_beams={generation.num_beams}: beams of a row must run side by side and copy each other's cache"
    return ""


@dataclass(frozen=True, slots=True)
class Integers(Generic[Value]):
    """Whole numbers of a row: ints on the host, tensors (rows,) of int64 on the device.

    Args:
        seed: Where its random stream starts.
        num_prompt: Position of its first new token.
        first_end: First position at which an end-of-sequence token may stand.
        do_sample: 1 or 0.
        top_k: Most likely tokens to sample among; the size of the vocabulary means all.
        num_candidates: Most likely tokens to look at, `top_k` and those that may tie with the last of them.
        ngram_size: n-grams of this size never repeat; 0 means off.
    """

    seed: Value
    num_prompt: Value
    first_end: Value
    do_sample: Value
    top_k: Value
    num_candidates: Value
    ngram_size: Value

    def row(self) -> tuple[Value, ...]:
        """All of them, in order; `dataclasses.astuple` copies deeply, which takes long."""
        return tuple([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class Fractions(Generic[Value]):
    """The other numbers of a row: floats on the host, tensors (rows,) of float64 on the device."""

    temperature: Value
    repetition_penalty: Value
    top_p: Value
    min_p: Value
    typical_p: Value

    def row(self) -> tuple[Value, ...]:
        """All of them, in order; `dataclasses.astuple` copies deeply, which takes long."""
        return tuple([getattr(self, name) for name in self.__slots__])


def integers_of(generation: GenerationConfig, *, num_prompt: int, seed: int, vocab_size: int) -> Integers[int]:
    """A row's whole numbers.

    Args:
        generation: Its settings.
        num_prompt: Tokens of its prompt.
        seed: Any whole number.
        vocab_size: Tokens that the model scores.
    """
    top_k = min(generation.top_k or vocab_size, vocab_size) if generation.do_sample else 1
    return Integers(
        seed=wrapped(seed),
        num_prompt=num_prompt,
        first_end=num_prompt + (generation.min_new_tokens or 0),
        do_sample=int(generation.do_sample),
        top_k=top_k,
        num_candidates=min(top_k + NUM_TIED, vocab_size) if generation.do_sample else 1,
        ngram_size=generation.no_repeat_ngram_size,
    )


def fractions_of(generation: GenerationConfig) -> Fractions[float]:
    """A row's other numbers; what concerns sampling is neutral in a greedy row."""
    sample = generation.do_sample
    return Fractions(
        temperature=generation.temperature if sample else 1.0,
        repetition_penalty=generation.repetition_penalty,
        top_p=generation.top_p if sample else 1.0,
        min_p=(generation.min_p or 0.0) if sample else 0.0,
        typical_p=generation.typical_p if sample else 1.0,
    )


class Passes(NamedTuple):
    """Which passes over the logits some rows need; each is neutral to rows that do not.

    Args:
        min_new_tokens: An end of sequence that is not allowed from the start.
        logprobs: Log-probabilities are wanted.
        penalty: A repetition penalty.
        ngram_size: Largest n-gram that must not repeat.
        num_candidates: Tokens to sort for sampling; 0 if all rows are greedy.
        top_p: Nucleus sampling.
        min_p: A least share of the most likely token.
        typical_p: Locally typical sampling.
    """

    min_new_tokens: bool = False
    logprobs: bool = False
    penalty: bool = False
    ngram_size: int = 0
    num_candidates: int = 0
    top_p: bool = False
    min_p: bool = False
    typical_p: bool = False

    @property
    def plain_greedy(self) -> bool:
        """Whether the most likely token is wanted that is not forbidden, and nothing else."""
        return self._replace(min_new_tokens=False) == Passes()

    @property
    def reads_history(self) -> bool:
        """Whether tokens before the new one matter."""
        return self.penalty or self.ngram_size > 0


def passes_of(generation: GenerationConfig, whole: Integers[int], other: Fractions[float]) -> Passes:
    """What one row needs."""
    return Passes(
        min_new_tokens=whole.first_end > whole.num_prompt,
        logprobs=generation.return_logprobs,
        penalty=other.repetition_penalty != 1.0,
        ngram_size=whole.ngram_size,
        num_candidates=whole.num_candidates if whole.do_sample else 0,
        top_p=other.top_p < 1.0,
        min_p=other.min_p > 0.0,
        typical_p=other.typical_p < 1.0,
    )


def union(rows: Collection[Passes]) -> Passes:
    """What several rows need together; nothing if there are none."""
    return Passes(*map(max, zip(*rows, strict=True))) if rows else Passes()
