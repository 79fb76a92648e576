from __future__ import annotations

import torch

from raydsinfer.bench.rates import measured_rates


def test_rates_are_those_of_a_machine() -> None:
    rates = measured_rates("cpu", torch.float32)
    assert 1e8 < rates.bytes_per_s < 1e13
    assert 1e8 < rates.operations_per_s < 1e15
