from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raydsinfer.checkpoints.weights import TensorReader, find_weights
from raydsinfer.errors import CheckpointError, CorruptCheckpointError

ONE, TWO = {"a": torch.arange(6.0).reshape(2, 3)}, {"b.c": torch.ones(4, dtype=torch.float16)}


def shard(directory: Path, suffix: str) -> None:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    for name, state in zip(names, (ONE, TWO), strict=True):
        save_file(state, directory / name) if suffix == "safetensors" else torch.save(state, directory / name)
    weight_map = {"a": names[0], "b.c": names[1]}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reads_each_tensor_of_a_sharded_checkpoint(tmp_path: Path, suffix: str) -> None:
    shard(tmp_path, suffix)
    with TensorReader(find_weights(tmp_path)) as reader:
        assert sorted(reader) == ["a", "b.c"]
        assert "a" in reader
        assert "z" not in reader
        assert torch.equal(reader.read("a"), ONE["a"])
        assert reader.read("b.c").dtype == torch.float16


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reads_a_single_file(tmp_path: Path, name: str) -> None:
    save_file(ONE, tmp_path / name) if name.endswith("safetensors") else torch.save(ONE, tmp_path / name)
    with TensorReader(find_weights(tmp_path)) as reader:
        assert torch.equal(reader.read("a"), ONE["a"])


def test_reads_pickles_from_before_zip_archives(tmp_path: Path) -> None:
    torch.save(ONE, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with TensorReader(find_weights(tmp_path)) as reader:
        assert torch.equal(reader.read("a"), ONE["a"])


def test_prefers_safetensors(tmp_path: Path) -> None:
    shard(tmp_path, "bin")
    save_file(ONE, tmp_path / "model.safetensors")
    assert find_weights(tmp_path).safetensors


def test_a_directory_without_weights_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights: found config\.json"):
        find_weights(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path, "safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"missing file: model-00002-of-00002\.safetensors"):
        find_weights(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_truncated_shard_is_named(tmp_path: Path, suffix: str) -> None:
    shard(tmp_path, suffix)
    path = next(tmp_path.glob(f"*-00002-of-00002.{suffix}"))
    path.write_bytes(path.read_bytes()[:-4] if suffix == "safetensors" else path.read_bytes()[:200])
    with pytest.raises(CorruptCheckpointError, match=f"{path.name}.*truncated or unreadable"):
        TensorReader(find_weights(tmp_path))


def test_an_index_that_promises_more_than_the_files_hold(tmp_path: Path) -> None:
    shard(tmp_path, "safetensors")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptCheckpointError, match=r"lacks 1 tensors.*ghost"):
        TensorReader(find_weights(tmp_path))


@pytest.mark.parametrize("content", ["not json", "[]", '{"weight_map": 3}'])
def test_an_unreadable_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CorruptCheckpointError, match=r"index\.json: not a readable index"):
        find_weights(tmp_path)


def test_an_index_cannot_reach_out_of_the_directory(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptCheckpointError, match="outside the model's directory"):
        find_weights(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


def test_pickled_weights_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CorruptCheckpointError, match="UnpicklingError"):
        TensorReader(find_weights(tmp_path))
    assert not Path("evil-was-here").exists()
