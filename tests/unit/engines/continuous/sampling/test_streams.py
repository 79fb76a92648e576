from __future__ import annotations

import torch

from raydsinfer.engines.continuous.sampling.seeds import child_seed, mix, wrapped
from raydsinfer.engines.continuous.sampling.streams import uniform

# splitmix64's first numbers for seed 0: each is `mix` of a multiple of gamma. From the reference
# implementation (Vigna, https://prng.di.unimi.it/splitmix64.c).
GAMMA = 0x9E3779B97F4A7C15
REFERENCE = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def draw(seeds: list[int], positions: list[int]) -> list[float]:
    numbers: list[float] = uniform(torch.tensor(seeds), torch.tensor(positions)).tolist()
    return numbers


def test_mixing_is_splitmix64() -> None:
    assert [mix(n * GAMMA % 2**64) for n in (1, 2, 3)] == REFERENCE


def test_the_device_computes_what_whole_numbers_do() -> None:
    seeds = [0, 1, 2**63 - 1, -(2**63), -1, 7]
    positions = [0, 1, 2, 100_000, 2**31, 2**40]
    expected = [
        (mix((mix(seed % 2**64) + (position + 1) * GAMMA) % 2**64) >> 11) * 2.0**-53
        for seed, position in zip(seeds, positions, strict=True)
    ]
    assert draw(seeds, positions) == expected


def test_a_number_depends_on_seed_and_position_only() -> None:
    alone = [draw([seed], [position])[0] for seed, position in [(5, 9), (6, 9), (5, 10)]]
    assert draw([5, 6, 5], [9, 9, 10]) == alone
    assert len(set(alone)) == 3


def test_streams_are_spread_evenly_and_do_not_follow_each_other() -> None:
    seeds, positions = torch.arange(64).repeat_interleave(512), torch.arange(512).repeat(64)
    numbers = uniform(seeds, positions)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=64, min=0, max=1)
    assert ((counts - 512) ** 2 / 512).sum() < 110  # chi-square with 63 degrees: above it once in 5,000
    table = numbers.view(64, 512) - 0.5
    neighbours = torch.stack([(table[1:] * table[:-1]).mean(), (table[:, 1:] * table[:, :-1]).mean()])
    assert neighbours.abs().max() < 4 / 12 / 32768**0.5  # four standard deviations


def test_children_have_streams_of_their_own() -> None:
    assert child_seed(12, 0) == 12
    children = [child_seed(seed, index) for seed in (0, 1, 2**63 - 1, -1) for index in range(1, 200)]
    assert len(set(children)) == len(children)
    assert all(0 <= child < 2**63 for child in children)


def test_wrapping_keeps_signed_64_bit_integers() -> None:
    assert [wrapped(n) for n in (0, -1, 2**63 - 1, 2**63, 2**64 + 5)] == [0, -1, 2**63 - 1, -(2**63), 5]
