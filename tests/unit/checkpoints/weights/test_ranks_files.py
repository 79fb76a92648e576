from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.errors import CorruptCheckpointError
from tests.weights import write_file, write_ranks

CUT = (Slice(0, ((0, 4),)), Slice(0, ((4, 6),)), Slice(0, ()))
SHARED, SECOND = "model-shared-00001-of-00001.safetensors", "model-rank-001-of-003-00001-of-00001.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_ranks(tmp_path, {"w": torch.ones(6, 2), "norm": torch.ones(3)}, {"w": CUT}, 3)
    return tmp_path


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "raydsinfer_ranks.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refill(directory: Path, name: str, **tensors: torch.Tensor) -> None:
    """Write other tensors into a file, and its new size into the index."""
    path = write_file(directory / name, tensors)
    edit(directory, lambda content: content["files"][name].update(bytes=path.stat().st_size))


def test_says_which_rank_has_what(directory: Path) -> None:
    edit(directory, lambda content: content.update(tied=[["norm", "elsewhere"]]))
    description = describe(directory)
    assert (description.form, description.tp_size, len(description.files)) == ("ranks", 3, 4)
    assert description.tied == (frozenset({"norm", "elsewhere"}),)
    w, norm = description.tensors["w"], description.tensors["norm"]
    assert (w.shape, w.dtype, w.num_bytes) == ((6, 2), "float32", 48)
    assert [piece.slice for piece in w.pieces] == list(CUT)
    assert [piece.tensor.shape for piece in w.pieces] == [(4, 2), (2, 2), (0, 2)]
    assert w.piece_of(1).tensor.file == SECOND
    assert [piece.slice for piece in norm.pieces] == [WHOLE]
    assert norm.piece_of(2).tensor.file == SHARED
    assert description.num_bytes == 48 + 12


@pytest.mark.parametrize("name", [SHARED, SECOND])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(CorruptCheckpointError, match=rf"names a missing file: {name}"):
        describe(directory)


def test_a_truncated_file_is_named(directory: Path) -> None:
    path = directory / SECOND
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptCheckpointError, match=rf"{SECOND}: has {size - 4} bytes instead of {size}"):
        describe(directory)


def test_a_file_that_lacks_a_tensor(directory: Path) -> None:
    refill(directory, SHARED)
    with pytest.raises(CorruptCheckpointError, match=rf"{SHARED}: lacks tensor norm"):
        describe(directory)


def test_a_file_that_holds_more(directory: Path) -> None:
    refill(directory, SHARED, norm=torch.ones(3), w=torch.ones(1))
    with pytest.raises(CorruptCheckpointError, match=rf"{SHARED}: holds tensor w, which .* does not place there"):
        describe(directory)


@pytest.mark.parametrize("other", [torch.ones(3, 2), torch.ones(2, 2, dtype=torch.float16)])
def test_a_piece_of_another_shape_or_dtype(directory: Path, other: torch.Tensor) -> None:
    refill(directory, SECOND, w=other)
    with pytest.raises(CorruptCheckpointError, match=r"tensor w is float.* instead of float32 \(2, 2\)"):
        describe(directory)
