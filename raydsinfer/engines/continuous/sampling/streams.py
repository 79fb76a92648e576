"""Random numbers that depend on a row's seed and on the position of the token, and on nothing else.

There is no state: a stream is a hash of (seed, position), the same on every rank, in every batch and slot, and
after a preemption. The hash is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014), in 64-bit integers that wrap around; torch has no unsigned ones that multiply everywhere.
"""

from __future__ import annotations

import torch

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_CHILD = 0xD1342543DE82EF95  # keeps children's seeds apart from numbers of the parent's stream
_MASK = (1 << 64) - 1


def wrapped(number: int) -> int:
    """The signed 64-bit integer that is congruent to a whole number."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def mix(number: int) -> int:
    """splitmix64's finaliser of an unsigned 64-bit integer."""
    number = ((number ^ (number >> 30)) * _FIRST) & _MASK
    number = ((number ^ (number >> 27)) * _SECOND) & _MASK
    return number ^ (number >> 31)


def child_seed(seed: int, index: int) -> int:
    """The seed of one of a request's sequences, from 0 to 2**63 - 1; the first one keeps the request's own.

    Args:
        seed: The request's.
        index: Which of `num_return_sequences`, from 0.
    """
    return seed if index == 0 else mix((mix((seed & _MASK) ^ _CHILD) + index * _GAMMA) & _MASK) >> 1


def uniform(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One number in [0, 1) for each row: float64 (rows,), a multiple of 2**-53.

    Args:
        seeds: int64 (rows,).
        positions: int64 (rows,), of the tokens that are drawn.
    """
    # The seed is hashed first: seeds that differ by a multiple of gamma would share a stream otherwise.
    hashed = _mix(_mix(seeds) + (positions + 1) * wrapped(_GAMMA))
    return _shift(hashed, 11).to(torch.float64) * 2.0**-53


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    numbers = (numbers ^ _shift(numbers, 30)) * wrapped(_FIRST)
    numbers = (numbers ^ _shift(numbers, 27)) * wrapped(_SECOND)
    return numbers ^ _shift(numbers, 31)


def _shift(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left, where torch repeats the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
