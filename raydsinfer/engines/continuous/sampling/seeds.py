"""Seeds as whole numbers: of a request, of each of its sequences. Pure.

The hash is splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
"""

from __future__ import annotations

GAMMA = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
_CHILD = 0xD1342543DE82EF95  # keeps children's seeds apart from numbers of the parent's stream
_MASK = (1 << 64) - 1


def wrapped(number: int) -> int:
    """The signed 64-bit integer that is congruent to a whole number."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def mix(number: int) -> int:
    """splitmix64's finaliser of an unsigned 64-bit integer."""
    number = ((number ^ (number >> 30)) * FIRST) & _MASK
    number = ((number ^ (number >> 27)) * SECOND) & _MASK
    return number ^ (number >> 31)


def child_seed(seed: int, index: int) -> int:
    """The seed of one of a request's sequences, from 0 to 2**63 - 1; the first one keeps the request's own.

    Args:
        seed: The request's.
        index: Which of `num_return_sequences`, from 0.
    """
    return seed if index == 0 else mix((mix((seed & _MASK) ^ _CHILD) + index * GAMMA) & _MASK) >> 1
