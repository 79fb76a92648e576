from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError
from raydsinfer.planning.model import read_model
from tests.models import write_tiny_model

CONFIG = EngineConfig(max_tokens=64)


def test_a_model_by_its_headers(tmp_path: Path) -> None:
    directory = write_tiny_model("llama", tmp_path / "llama")
    found = read_model(str(directory), CONFIG)
    assert (found.family, found.positions, found.num_kv_heads, len(found.layers)) == ("llama", 256, 2, 3)
    assert found.stored is not None
    assert (found.stored.form, found.stored.num_files, found.stored.checked) == ("safetensors", 1, True)
    assert found.stored.num_bytes == (directory / "model.safetensors").stat().st_size
    layer = found.layers[0]
    assert (layer.num_heads, layer.num_query_heads, layer.key_size) == (2, 4, 32)
    assert [layer.num_heads for layer in found.layers_on_rank(2)] == [1, 1, 1]
    assert (found.continuous_problem, found.continuous_tried) == ("", True)


def test_the_dtype_that_it_was_saved_in(tmp_path: Path) -> None:
    directory = write_tiny_model("llama", tmp_path / "llama")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert read_model(str(directory), CONFIG).saved_as == "bfloat16"


@pytest.mark.parametrize("family", ["opt", "gptj", "gpt_neox", "gpt_neo", "qwen2", "mistral", "gpt2", "bloom"])
def test_every_family_has_keys_and_values(tmp_path: Path, family: str) -> None:
    found = read_model(str(write_tiny_model(family, tmp_path / family)), CONFIG)
    assert {(layer.key_size, layer.value_size) for layer in found.layers} == {(16, 16)}
    assert len(found.layers) == found.config.get_text_config().num_hidden_layers
    assert found.continuous_problem == ""
    assert found.continuous_tried == (family != "gpt2")  # it looks at a tensor's value


def test_a_generation_config_that_forces_tokens(tmp_path: Path) -> None:
    directory = write_tiny_model("opt", tmp_path / "opt")
    (directory / "generation_config.json").write_text('{"forced_eos_token_id": 2}')
    assert "forced_eos_token_id" in read_model(str(directory), CONFIG).continuous_problem


def test_weights_that_are_missing_or_broken_are_one_thing_among_others(tmp_path: Path) -> None:
    directory = write_tiny_model("opt", tmp_path / "opt")
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:1000])
    assert "truncated or unreadable" in read_model(str(directory), CONFIG).stored_problem
    (directory / "model.safetensors").unlink()
    found = read_model(str(directory), CONFIG)
    assert (found.stored, "no weights" in found.stored_problem) == (None, True)
    assert found.num_parameters > 0


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        read_model(str(tmp_path / "none" / "at" / "all"), CONFIG)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    with pytest.raises(CheckpointError, match="transformers cannot use it"):
        read_model(str(tmp_path), CONFIG)
