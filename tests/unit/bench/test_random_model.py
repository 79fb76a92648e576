from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.checkpoints.weights.describe import describe


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float16).state_dict()


def test_both_forms_hold_the_same_weights_and_whole_layers(tmp_path: Path) -> None:
    write_random_model(tmp_path / "safe", shape("opt-tiny", 2), "safetensors")
    write_random_model(tmp_path / "bin", shape("opt-tiny", 2), "bin")
    safe, pickled = tensors(tmp_path / "safe"), tensors(tmp_path / "bin")
    assert safe.keys() == pickled.keys()
    assert all(torch.equal(safe[name], pickled[name]) for name in safe)
    first, second = (safe[f"model.decoder.layers.{i}.fc1.weight"] for i in (0, 1))
    assert not torch.equal(first, second)
    described = describe(tmp_path / "safe")
    assert sorted(described.files) == ["layer-000.safetensors", "layer-001.safetensors", "rest.safetensors"]


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_one_layer_many_times(tmp_path: Path, form: str) -> None:
    write_random_model(tmp_path / "m", shape("opt-tiny", 3), form, same_layers=True)  # type: ignore[arg-type]
    state = tensors(tmp_path / "m")
    for end in ("fc1.weight", "self_attn.q_proj.bias"):
        values = [state[f"model.decoder.layers.{i}.{end}"] for i in range(3)]
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])
