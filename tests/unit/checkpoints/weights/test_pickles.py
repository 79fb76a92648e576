from __future__ import annotations

import datetime
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.pickles import can_be_mapped, load_mapped, read_pickle
from raydsinfer.errors import CorruptCheckpointError

BOTH = pytest.mark.parametrize("old", [False, True])


def write(path: Path, content: Any, *, old: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert can_be_mapped(path) != old
    return path


class Evil:
    """What an attacker would put among the tensors."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self._made = call, arguments

    def __reduce__(self) -> Any:
        return self._made


@BOTH
@pytest.mark.parametrize(
    ("evil", "asks_for"),
    [
        (Evil(os.system, "touch evil-was-here"), r"posix\.system"),
        (Evil(Path.touch, Path("evil-was-here")), r"getattr|pathlib"),
        (Evil(eval, "open('evil-was-here', 'w')"), r"eval"),
        (Evil(pickle.loads, pickle.dumps(Evil(os.system, "touch evil-was-here"))), r"loads"),
    ],
)
def test_pickled_weights_run_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Evil, asks_for: str, old: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pytorch_model.bin", {"a": torch.ones(1), "b": evil}, old=old)
    with pytest.raises(CorruptCheckpointError, match=rf"refused: it carries code.*asks for .*{asks_for}") as caught:
        describe(tmp_path)
    assert "weights_only" not in str(caught.value)  # nobody is told how to run it after all
    assert not Path("evil-was-here").exists()


@BOTH
def test_the_trap_of_this_test_would_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "pytorch_model.bin", {"b": Evil(os.system, "touch evil-was-here")}, old=old)
    torch.load(path, weights_only=False)
    assert Path("evil-was-here").exists()


@BOTH
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"step": 3}, "step is no tensor but int"),
        ({"model": {"a": torch.ones(1)}}, "model is no tensor but dict"),
        ([torch.ones(1)], "holds list, not tensors by name"),
        ({1: torch.ones(1)}, "holds dict, not tensors by name"),
        (torch.ones(1), "holds Tensor, not tensors by name"),
        ({"a": torch.eye(2).to_sparse()}, r"tensor a is torch\.float32 \(torch\.sparse_coo\)"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, r"tensor a is torch\.complex64"),
        ({"a": [torch.ones(1, dtype=torch.int8), torch.ones(1)]}, "no tensor but list: DeepSpeed's int8"),
        ({"a": datetime.date(2020, 1, 1)}, r"asks for datetime\.date"),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path: Path, content: Any, says: str, old: bool) -> None:
    path = write(tmp_path / "x.bin", content, old=old)
    with pytest.raises(CorruptCheckpointError, match=rf"x\.bin: .*{says}"):
        read_pickle(path)


@BOTH
def test_state_dicts_and_parameters_are_tensors(tmp_path: Path, old: bool) -> None:
    content = torch.nn.Linear(2, 3).state_dict()
    content["p"] = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    tensors, tied = read_pickle(write(tmp_path / "x.bin", content, old=old))
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "weight": ("float32", (3, 2)),
        "bias": ("float32", (3,)),
        "p": ("bfloat16", (2,)),
    }
    assert tied == ()


@pytest.mark.parametrize("keep", [0, 3, 100, 400, -1])
def test_a_truncated_archive_is_named(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "x.bin", {"a": torch.ones(300)}, old=False)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpointError, match=r"x\.bin: truncated or unreadable \([^()]*\)"):
        read_pickle(path)


def test_something_else_under_this_name(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for content in (b"<html>not found</html>", b"\0" * 100, b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        with pytest.raises(CorruptCheckpointError, match=r"x\.bin: truncated or unreadable"):
            read_pickle(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "an archive of something else")
    with pytest.raises(CorruptCheckpointError, match=r"x\.bin: truncated or unreadable"):
        read_pickle(path)


def test_a_compressed_archive_is_refused_because_its_bytes_are_not_the_values(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", {"a": torch.ones(300)}, old=False)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "y.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for record in stored.namelist():
            packed.writestr(record, stored.read(record))
    with pytest.raises(CorruptCheckpointError, match="the archive is compressed"):
        load_mapped(tmp_path / "y.bin")
