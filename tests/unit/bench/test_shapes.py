from __future__ import annotations

import pytest

from raydsinfer.bench.shapes import SHAPES, shape
from raydsinfer.errors import InvalidSettingError


def test_shapes_have_their_published_number_of_parameters() -> None:
    def billions(name: str) -> float:
        s = SHAPES[name]
        layer = 4 * s["hidden_size"] ** 2 + 2 * s["hidden_size"] * s["ffn_dim"]
        return float(s["num_hidden_layers"] * layer + s["vocab_size"] * s["hidden_size"]) / 1e9

    for name, expected in {"opt-1.3b": 1.3, "opt-6.7b": 6.7, "opt-13b": 12.9, "opt-30b": 30.0, "opt-66b": 65.7}.items():
        assert billions(name) == pytest.approx(expected, rel=0.02)


def test_another_number_of_layers() -> None:
    assert shape("opt-13b", 2)["num_hidden_layers"] == 2
    assert SHAPES["opt-13b"]["num_hidden_layers"] == 40


def test_an_unknown_shape_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidSettingError, match="opt-66b"):
        shape("opt-67b")
