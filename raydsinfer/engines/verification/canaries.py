"""The prompts that a gang is tried with."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

NUM_NEW_TOKENS = 6
"""Tokens that each canary generates: the first comes from the prompt, the others through the KV cache."""

LONGEST_PROMPT, LONGEST_PROMPT_ON_CPU = 2048, 256
"""Tokens of the longest canary, however large `max_tokens` is: the reference has to compute as many."""

_SINGLE, _PADDED, _BESIDE_LONG = 9, (11, 4, 7), 3  # tokens of prompts


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A prompt.

    Args:
        name: What it tries.
        token_ids: The prompt.
        num_new_tokens: Tokens to generate.
    """

    name: str
    token_ids: tuple[int, ...]
    num_new_tokens: int


def canary_batches(
    *, vocab_size: int, special_ids: Collection[int], max_tokens: int, max_batch_size: int, on_cpu: bool
) -> list[list[Canary]]:
    """The canary set: prompts of a batch go to the engine together. The same arguments give the same set.

    Args:
        vocab_size: Tokens of the model.
        special_ids: Tokens that no prompt should have.
        max_tokens: Prompt plus new tokens of the longest row.
        max_batch_size: Rows of the largest static batch.
        on_cpu: Whether it is computed on CPUs, which are slow.
    """
    num_new = min(NUM_NEW_TOKENS, max_tokens - 1)
    most = min(LONGEST_PROMPT_ON_CPU if on_cpu else LONGEST_PROMPT, max_tokens - num_new)
    draw = _Draw(vocab_size, special_ids)

    def canary(name: str, length: int) -> Canary:
        return Canary(name=name, token_ids=draw.tokens(min(length, most)), num_new_tokens=num_new)

    padded = [canary(f"padded, row {row}", length) for row, length in enumerate(_PADDED)]
    long = [canary("long", most), canary("padded to long", _BESIDE_LONG)]
    return [[canary("single", _SINGLE)], padded[:max_batch_size], long[:max_batch_size]]


class _Draw:
    """Tokens by chance, the same everywhere: of `random` only the stream of `random()` is promised to stay."""

    def __init__(self, vocab_size: int, special_ids: Collection[int]) -> None:
        self._random, self._vocab_size = random.Random(0), vocab_size  # noqa: S311
        # A vocabulary of nothing but special tokens still needs prompts.
        self._special = frozenset(special_ids) if len(set(special_ids)) < vocab_size else frozenset()

    def tokens(self, number: int) -> tuple[int, ...]:
        return tuple(self._token() for _ in range(number))

    def _token(self) -> int:
        while (token := int(self._random.random() * self._vocab_size)) in self._special:
            pass
        return token
