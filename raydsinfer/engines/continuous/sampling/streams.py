"""Random numbers that depend on a row's seed and on the position of the token, and on nothing else.

There is no state: a stream is a hash of (seed, position), the same on every rank, in every batch and slot, and
after a preemption. The hash is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014), in 64-bit integers that wrap around; torch has no unsigned ones that multiply everywhere.
"""

from __future__ import annotations

import torch

from raydsinfer.engines.continuous.sampling.seeds import FIRST, GAMMA, SECOND, wrapped


def uniform(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One number in [0, 1) for each row: float64 (rows,), a multiple of 2**-53.

    Args:
        seeds: int64 (rows,).
        positions: int64 (rows,), of the tokens that are drawn.
    """
    # The seed is hashed first: seeds that differ by a multiple of gamma would share a stream otherwise.
    hashed = _mix(_mix(seeds) + (positions + 1) * wrapped(GAMMA))
    return _shift(hashed, 11).to(torch.float64) * 2.0**-53


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    numbers = (numbers ^ _shift(numbers, 30)) * wrapped(FIRST)
    numbers = (numbers ^ _shift(numbers, 27)) * wrapped(SECOND)
    return numbers ^ _shift(numbers, 31)


def _shift(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left, where torch repeats the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
