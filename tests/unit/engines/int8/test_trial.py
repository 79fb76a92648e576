from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from raydsinfer.engines.base import RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.int8 import trial
from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.int8.trial import kernel_problem, use_kernel


def layer(num_outputs: int = 8) -> Int8Linear:
    made = Int8Linear(16, num_outputs, bias=False, dtype=torch.float32, device="cpu")
    made.quantise(torch.randn(num_outputs, 16))
    return made


def test_where_the_kernel_cannot_run_weights_are_made_floats(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleList([layer(), layer()])
    with caplog.at_level(logging.WARNING):
        assert not use_kernel(model, RankContext())  # this is a CPU, and Triton may not even be installed
    assert [made.kernel for made in model] == [False, False]
    assert "made floats in every step" in caplog.text


@pytest.mark.parametrize(("factor", "works"), [(1.0, True), (1.1, False), (float("nan"), False)])
def test_the_kernel_is_used_where_its_products_are_right(
    factor: float, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def products(*given: object) -> torch.Tensor:
        *operands, kernel = given
        return own(*operands, False) * (factor if kernel else 1.0)

    own = trial.int8_linear
    monkeypatch.setattr(trial, "int8_linear", products)
    model = nn.ModuleList([layer(), layer()])
    assert use_kernel(model, RankContext()) is works
    assert [made.kernel for made in model] == [works, works]
    assert ("differ" in kernel_problem(layer())) is not works


def test_each_kind_of_layer_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def products(hidden: torch.Tensor, weight: torch.Tensor, *given: object) -> torch.Tensor:
        *operands, kernel = given
        return own(hidden, weight, *operands, False) * (1.1 if kernel and len(weight) == 5 else 1.0)

    own = trial.int8_linear
    monkeypatch.setattr(trial, "int8_linear", products)
    assert use_kernel(nn.ModuleList([layer(), layer()]), RankContext())
    assert not use_kernel(nn.ModuleList([layer(), layer(num_outputs=5)]), RankContext())


def test_no_rank_uses_the_kernel_where_another_cannot(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trial, "kernel_problem", lambda _: "")
    monkeypatch.setattr(Agreement, "largest", lambda _, number: max(number, 1.0))
    model = nn.ModuleList([layer()])
    assert not use_kernel(model, RankContext())
    assert [made.kernel for made in model] == [False]
    assert "another rank cannot" in caplog.text
