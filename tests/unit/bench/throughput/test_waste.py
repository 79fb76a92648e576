from __future__ import annotations

import pytest

from raydsinfer.bench.throughput.waste import StaticWaste, idle_share, page_waste, static_waste
from raydsinfer.bench.workloads import BenchRequest, mixed, uniform


def test_padding_and_idle_rows_by_hand() -> None:
    requests = [BenchRequest((5,) * 10, 2), BenchRequest((5,) * 4, 6)]
    assert static_waste(requests, 2) == StaticWaste(padding=6, idle=4, computed=20 + 12)
    assert static_waste(requests, 2).share == 10 / 32
    assert static_waste(requests, 1).share == 0


def test_uniform_wastes_nothing_and_mixed_much() -> None:
    assert static_waste(uniform(256).requests, 100).share == 0
    assert 0.5 < static_waste(mixed().requests, 128).share < 0.8


def test_places_of_steps_without_a_token() -> None:
    requests = uniform(4).requests  # 256 new tokens
    assert idle_share(requests, 64, 256) == 0
    assert idle_share(requests, 128, 2) == 0
    assert idle_share(requests, 80, 4) == pytest.approx(0.2)


def test_pages_by_hand() -> None:
    # With 3, 4 and 5 tokens in pages of 4: 12 of 16 places are filled.
    assert page_waste([BenchRequest((5, 6, 7), 3)], 4) == 1 - 12 / 16
    assert page_waste(uniform(2).requests, 1) == 0
