from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.tensors import ITEM_BYTES
from raydsinfer.checkpoints.weights.headers import read_header
from raydsinfer.errors import CorruptCheckpointError
from tests.weights import write_file


def write_raw(path: Path, header: Any, num_bytes: int, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(num_bytes))
    return path


def entry(start: int, stop: int, *shape: int, dtype: str = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize("dtype", [name for name in ITEM_BYTES if hasattr(torch, name)])
def test_says_what_each_tensor_is(tmp_path: Path, dtype: str) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    path = write_file(tmp_path / "model.safetensors", {"before": torch.ones(3), "t": tensor, "z": torch.ones(1)})
    stored = read_header(path)["t"]
    assert (stored.name, stored.file, stored.dtype, stored.shape) == ("t", path.name, dtype, (2, 3))
    assert stored.num_bytes == tensor.nbytes


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}, "a": entry(0, 4, 2)}, 4)
    assert list(read_header(path)) == ["a"]


@pytest.mark.parametrize(
    ("header", "num_bytes", "says"),
    [
        ({"a": entry(0, 4, 3)}, 4, "shape and dtype that need more"),
        ({"a": entry(0, 4, 1)}, 4, "shape and dtype that need less"),
        ({"a": entry(0, 4, 2)}, 2, "an end after the file's"),
        ({"a": entry(0, 4, 2)}, 6, "bytes that belong to nothing"),
        ({"a": entry(2, 6, 2)}, 6, "a gap"),
        ({"a": entry(0, 4, 2), "b": entry(2, 6, 2)}, 6, "an overlap"),
        ({"a": entry(4, 0, 2)}, 4, "an end before its start"),
        ({"a": entry(0, 4, -2)}, 4, "a negative shape"),
        ({"a": entry(0, 0, 2**40, 2**40)}, 0, "a product that overflows"),
        ({"a": {"dtype": "F16", "shape": [2]}}, 4, "no offsets"),
        ({"a": entry(0, 4, 2, dtype="NEW")}, 4, "a dtype that nobody has"),
        ([1, 2], 4, "no object"),
        (b"not json", 4, "no JSON"),
        (b'{"a":\xff}', 4, "no text"),
        (b"", 0, "no header"),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: Any, num_bytes: int, says: str) -> None:
    path = write_raw(tmp_path / "x.safetensors", header, num_bytes)
    with pytest.raises(CorruptCheckpointError, match=r"x\.safetensors: truncated or unreadable \(SafetensorError"):
        read_header(path)


@pytest.mark.parametrize("length", [0, 3, 10**6, 2**40, 2**63 - 1])
def test_a_header_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 4, 2)}, 4, length)
    with pytest.raises(CorruptCheckpointError, match=r"truncated or unreadable"):
        read_header(path)


def test_a_tensor_that_is_there_twice(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4, 2))
    path = write_raw(tmp_path / "x.safetensors", f'{{"a": {one}, "a": {one}}}'.encode(), 4)
    with pytest.raises(CorruptCheckpointError, match=r"unreadable \(ValueError: a is there twice"):
        read_header(path)


def test_a_dtype_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"a": entry(0, 8, 1, dtype="C64")}, 8)
    with pytest.raises(CorruptCheckpointError, match="tensor a has the unknown dtype C64"):
        read_header(path)


@pytest.mark.parametrize("keep", [0, 7, 8, 20, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = write_file(tmp_path / "model.safetensors", {"a": torch.ones(3)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors: truncated or unreadable"):
        read_header(path)
