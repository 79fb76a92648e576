from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raydsinfer.engines import model as models
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnsupportedError,
    WeightsMismatchError,
)
from tests.models import write_tiny_model
from tests.weights import write_presharded, write_ranks


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_tiny_model("llama", tmp_path / "llama", tie_word_embeddings=True)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json"):
        models.read_config(tmp_path)


def test_a_config_that_transformers_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    with pytest.raises(CheckpointError, match="transformers cannot use it"):
        models.read_config(tmp_path)


def test_building_on_meta_takes_no_memory_but_for_buffers(llama: Path) -> None:
    model = models.build_meta(models.read_config(llama), torch.float16)
    assert all(p.is_meta and p.dtype == torch.float16 for p in model.parameters())
    assert all(not b.is_meta for b in model.buffers())
    assert models.tied_names(model) == [{"lm_head.weight", "model.embed_tokens.weight"}]


def test_buffers_come_back_in_their_own_dtype(llama: Path) -> None:
    model = models.load_whole(llama, models.read_config(llama), torch.float32)
    before = models.copy_buffers(model)
    assert before
    models.restore_buffers(model.half(), before, "cpu")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
        assert buffer.dtype == before[name].dtype


def test_auto_dtype(llama: Path) -> None:
    config = models.read_config(llama)
    assert models.resolve_dtype("auto", config, "cpu") == torch.float32
    assert models.resolve_dtype("bfloat16", config, "cpu") == torch.bfloat16


def test_names_of_older_checkpoints(tmp_path: Path) -> None:
    config = models.read_config(write_tiny_model("opt", tmp_path / "opt"))
    model = models.build_meta(config, torch.float32)
    names = models.tensor_names(model, ["decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"], "x")
    assert names == {
        "model.decoder.embed_tokens.weight": "decoder.embed_tokens.weight",
        "model.decoder.embed_positions.weight": "model.decoder.embed_positions.weight",
    }


def test_two_tensors_for_one_parameter_are_refused(tmp_path: Path) -> None:
    config = models.read_config(write_tiny_model("opt", tmp_path / "opt"))
    model = models.build_meta(config, torch.float32)
    twice = ["model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    with pytest.raises(WeightsMismatchError, match=r"two tensors belong to model\.decoder") as caught:
        models.tensor_names(model, twice, "x")
    assert caught.value.nothing_took == sorted(twice)


def test_loading_whole_accounts_for_each_tensor(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    state["model.layers.7.extra.weight"] = state.pop("model.norm.weight")
    save_file(state, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatchError) as caught:
        models.load_whole(llama, models.read_config(llama), torch.float32)
    assert caught.value.never_filled == ["model.norm.weight"]
    assert caught.value.nothing_took == ["model.layers.7.extra.weight"]


def test_loading_a_truncated_file_whole(llama: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpointError):
        models.load_whole(llama, models.read_config(llama), torch.float32)


def test_pickles_are_loaded_whole(llama: Path) -> None:
    state = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(state, llama / "pytorch_model.bin")
    model = models.load_whole(llama, models.read_config(llama), torch.float32)
    assert torch.equal(model.get_parameter("model.norm.weight"), state["model.norm.weight"])


def test_weights_that_were_cut_for_ranks_are_not_loaded_whole(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    write_ranks(llama, {"a": torch.ones(4)}, {}, 2)
    with pytest.raises(UnsupportedError, match=r"cut for tensor-parallel size 2.*use_meta_tensor=True, or the orig"):
        models.load_whole(llama, models.read_config(llama), torch.float32)


def test_weights_that_deepspeed_cut_are_not_loaded_whole(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    write_presharded(llama, [[{"a": torch.ones(2)}, {"a": torch.ones(2)}]], {"b": torch.ones(3)})
    with pytest.raises(
        UnsupportedError,
        match=r"cut for tensor-parallel size 2.*use_meta_tensor=True and kernel_inject=True, or the orig",
    ):
        models.load_whole(llama, models.read_config(llama), torch.float32)
