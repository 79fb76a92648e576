from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.ranks_index import (
    RANKS_INDEX,
    FileSum,
    RankedTensor,
    RanksIndex,
    read_ranks_index,
    write_ranks_index,
)
from raydsinfer.errors import CorruptCheckpointError

SUM = FileSum(bytes=100, sha256="ab" * 32)
ROWS = (Slice(0, ((0, 2), (4, 6))), Slice(0, ((2, 4),)))
INDEX = RanksIndex(
    tp_size=2,
    source={"model": "somewhere"},
    tied=(("norm", "other"),),
    tensors={
        "cut": RankedTensor.cut(dtype="float16", shape=(6, 3), slices=ROWS),
        "norm": RankedTensor.cut(dtype="bfloat16", shape=(3,), slices=(WHOLE, WHOLE)),
    },
    files={"shared": SUM, "r0": SUM, "r1": SUM},
    shared={"norm": "shared"},
    by_rank=({"cut": "r0"}, {"cut": "r1"}),
)


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert write_ranks_index(tmp_path, INDEX) == tmp_path / RANKS_INDEX
    assert read_ranks_index(tmp_path) == INDEX
    assert [p.name for p in tmp_path.iterdir()] == [RANKS_INDEX]


def test_slices_come_back_by_rank() -> None:
    cut, norm = INDEX.tensors["cut"], INDEX.tensors["norm"]
    assert [cut.slice_of(rank) for rank in (0, 1)] == list(ROWS)
    assert norm.shared
    assert norm.slice_of(1) == WHOLE


def test_ranks_cannot_cut_along_different_dimensions() -> None:
    with pytest.raises(ValueError, match="different dimensions"):
        RankedTensor.cut(dtype="float16", shape=(2, 2), slices=(Slice(0, ((0, 1),)), Slice(1, ((0, 1),))))


@given(bounds=st.lists(st.integers(0, 40), min_size=2, max_size=12, unique=True))
def test_any_cut_survives_json(bounds: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    ranges = tuple(zip(sorted(bounds)[::2], sorted(bounds)[1::2], strict=False))
    slices = (Slice(1, ranges), Slice(1, ()))
    cut = RankedTensor.cut(dtype="float32", shape=(7, 40), slices=slices)
    directory = tmp_path_factory.mktemp("index")
    write_ranks_index(directory, replace(INDEX, tensors={**INDEX.tensors, "cut": cut}))
    back = read_ranks_index(directory).tensors["cut"]
    assert (back.slice_of(0), back.slice_of(1)) == slices


def edited(change: Callable[[dict[str, Any]], object], directory: Path) -> Path:
    path = write_ranks_index(directory, INDEX)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(version=2), r"version: Input should be 1"),
        (lambda c: c.update(tp_size=0), r"tp_size: .*greater than or equal to 1"),
        (lambda c: c.update(tp_size="2"), r"tp_size: .*valid integer"),
        (lambda c: c.update(tp_size=3), r"made for 3 ranks but lists files of 2"),
        (lambda c: c.pop("tensors"), r"tensors: Field required"),
        (lambda c: c["files"].update(r0={"bytes": -1, "sha256": "ab" * 32}), r"files\.r0\.bytes"),
        (lambda c: c["files"].update(r0={"bytes": 1, "sha256": "short"}), r"files\.r0\.sha256"),
        (lambda c: c["files"].pop("r1"), r"gives no size of the file r1"),
        (lambda c: c["shared"].update(norm="../r0"), r"outside the directory: \.\./r0"),
        (lambda c: c["files"].update({"/etc/passwd": c["files"]["r0"]}), r"outside the directory: /etc/passwd"),
        (lambda c: c["shared"].update(ghost="r0"), r"tensor ghost but not its shape"),
        (lambda c: c["shared"].pop("norm"), r"tensor norm is shared but its files say otherwise"),
        (lambda c: c["by_rank"][1].pop("cut"), r"tensor cut is cut but its files say otherwise"),
        (lambda c: c["tensors"]["cut"].update(dim=None), r"tensor cut: has a dimension or ranges"),
        (lambda c: c["tensors"]["cut"].update(dim=2), r"tensor cut: has no dimension 2"),
        (lambda c: c["tensors"]["cut"]["ranks"].pop(), r"tensor cut: is cut for 1 ranks instead of 2"),
        (lambda c: c["tensors"]["cut"]["ranks"][0][0].__setitem__(1, 7), r"range 0 to 7 does not lie in 0 to 6"),
        (lambda c: c["tensors"]["cut"]["ranks"][0][0].__setitem__(1, 0), r"range 0 to 0 does not lie"),
        (lambda c: c["tensors"]["norm"].update(dtype="complex64"), r"tensor norm: unknown dtype complex64"),
        (lambda c: c.update(tied=[["x", "y"]]), r"none of the tied tensors x, y is stored"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    with pytest.raises(CorruptCheckpointError, match=rf"{RANKS_INDEX}: .*{says}"):
        read_ranks_index(edited(change, tmp_path))


@pytest.mark.parametrize("content", ["not json", "[]", "null", '{"version": 1'])
def test_an_unreadable_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / RANKS_INDEX).write_text(content)
    with pytest.raises(CorruptCheckpointError, match=rf"{RANKS_INDEX}: not a readable index"):
        read_ranks_index(tmp_path)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"FileNotFoundError"):
        read_ranks_index(tmp_path)


def test_an_index_that_contradicts_itself_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match="made for 3 ranks"):
        write_ranks_index(tmp_path, replace(INDEX, tp_size=3))
    assert list(tmp_path.iterdir()) == []
