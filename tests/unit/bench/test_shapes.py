from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from raydsinfer.bench.shapes import SHAPES, shape
from raydsinfer.engines.model import build_meta
from raydsinfer.errors import InvalidSettingError

PUBLISHED = {  # billions
    "opt-1.3b": 1.32,
    "opt-6.7b": 6.66,
    "opt-13b": 12.85,
    "opt-66b": 65.7,
    "llama-8b": 8.03,
    "llama-7b": 6.74,
    "gpt2-xl": 1.56,
    "gpt-neo-2.7b": 2.65,
    "gpt-j-6b": 6.05,
    "pythia-6.9b": 6.86,
    "bloom-7b1": 7.07,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_their_published_number_of_parameters(name: str) -> None:
    fields = shape(name)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    num_parameters = sum(p.numel() for p in build_meta(config, torch.float16).parameters())
    assert num_parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


def test_another_number_of_layers() -> None:
    assert shape("opt-13b", 2)["num_hidden_layers"] == 2
    assert SHAPES["opt-13b"]["num_hidden_layers"] == 40


def test_an_unknown_shape_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidSettingError, match="opt-66b"):
        shape("opt-67b")
