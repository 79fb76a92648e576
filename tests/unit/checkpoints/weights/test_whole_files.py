from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.checkpoints.weights.whole_files import find_whole_files
from raydsinfer.errors import CorruptCheckpointError
from tests.weights import ONE, write_file, write_shards


def set_weight_map(index: Path, **changes: object) -> None:
    content = json.loads(index.read_text())
    content["weight_map"].update(changes)
    index.write_text(json.dumps(content))


def test_prefers_safetensors(tmp_path: Path) -> None:
    write_shards(tmp_path, "bin")
    write_file(tmp_path / "model.safetensors", ONE)
    files = find_whole_files(tmp_path)
    assert files is not None
    assert files.safetensors
    assert files.names == ("model.safetensors",)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_single_file_comes_before_an_index_as_in_transformers(tmp_path: Path, suffix: str) -> None:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    single = {"transformer.wte.weight": torch.full((64, 32), 2.0)}
    write_shards(tmp_path, suffix, [{"transformer.wte.weight": torch.ones(64, 32)}])
    write_file(tmp_path / f"{stem}.{suffix}", single)
    files = find_whole_files(tmp_path)
    assert files is not None
    assert (files.names, files.index) == ((f"{stem}.{suffix}",), "")
    GPT2Config(n_layer=0, n_head=1, n_embd=32, vocab_size=64, n_positions=8).save_pretrained(tmp_path)
    theirs = GPT2Model.from_pretrained(tmp_path).wte.weight
    with TensorReader(describe(tmp_path)) as reader:
        assert torch.equal(reader.read("transformer.wte.weight"), theirs)


def test_a_directory_without_them(tmp_path: Path) -> None:
    assert find_whole_files(tmp_path) is None


def test_missing_shards_are_named_all_at_once(tmp_path: Path) -> None:
    write_shards(tmp_path, "safetensors", [{f"t{i}": torch.ones(1)} for i in range(3)])
    for number in (1, 3):
        (tmp_path / f"model-0000{number}-of-00003.safetensors").unlink()
    both = r"missing file: model-00001-of-00003\.safetensors, model-00003-of-00003\.safetensors"
    with pytest.raises(CorruptCheckpointError, match=both):
        describe(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_truncated_shard_is_named(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, suffix)
    path = next(tmp_path.glob(f"*-00002-of-00002.{suffix}"))
    path.write_bytes(path.read_bytes()[:-4] if suffix == "safetensors" else path.read_bytes()[:200])
    with pytest.raises(CorruptCheckpointError, match=f"{path.name}.*truncated or unreadable"):
        describe(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_that_promises_more_than_the_files_hold(tmp_path: Path, suffix: str) -> None:
    index = write_shards(tmp_path, suffix)
    shard = next(tmp_path.glob(f"*-00001-of-00002.{suffix}")).name
    set_weight_map(index, ghost=shard)
    with pytest.raises(CorruptCheckpointError, match=rf"{shard}: lacks 1 tensors.*ghost"):
        describe(tmp_path)


def test_an_index_that_places_a_tensor_in_another_file(tmp_path: Path) -> None:
    index = write_shards(tmp_path, "safetensors")
    set_weight_map(index, a="model-00002-of-00002.safetensors", x="model-00001-of-00002.safetensors")
    write_file(tmp_path / "model-00001-of-00002.safetensors", {**ONE, "x": torch.ones(1)})
    with pytest.raises(CorruptCheckpointError, match=r"places tensor a in model-00002.*but it is in model-00001"):
        describe(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_tensor_in_two_files(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, suffix, [{"b": torch.ones(1)}, ONE])
    write_file(next(tmp_path.glob(f"*-00001-of-00002.{suffix}")), {"b": torch.ones(1), **ONE})
    with pytest.raises(CorruptCheckpointError, match=rf"tensor a is both in \S*-00001\S*{suffix} and in \S*-00002"):
        describe(tmp_path)


def test_tensors_that_the_index_does_not_list_are_seen(tmp_path: Path) -> None:
    write_shards(tmp_path, "safetensors")
    write_file(tmp_path / "model-00001-of-00002.safetensors", {**ONE, "extra": torch.ones(1)})
    assert sorted(describe(tmp_path).tensors) == ["a", "b.c", "extra"]


@pytest.mark.parametrize(
    "content", ["not json", "[]", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 9999]
)
def test_an_unreadable_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CorruptCheckpointError, match=r"index\.json: not a readable index"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../elsewhere.safetensors", "names a file outside the model's directory"),
        ("/etc/passwd", "names a file outside the model's directory"),
        ("..", "names a missing file"),
        ("", "names a missing file"),
    ],
)
def test_an_index_cannot_reach_out_of_the_directory(tmp_path: Path, name: str, says: str) -> None:
    write_file(tmp_path.parent / "elsewhere.safetensors", ONE)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CorruptCheckpointError, match=rf"{says}: {name}"):
        describe(tmp_path)


def test_files_may_be_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write_shards(blobs, "safetensors")
    for path in list(blobs.iterdir()):
        path.rename(blobs / path.name.encode().hex())
        (snapshot / path.name).symlink_to(f"../blobs/{path.name.encode().hex()}")
    assert sorted(describe(snapshot).tensors) == ["a", "b.c"]
