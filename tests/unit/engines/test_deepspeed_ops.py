"""The lock under which ops are built; asking DeepSpeed for them is tested where doctor does it."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from raydsinfer.engines.deepspeed_ops import sole_builder

OP = "some_op"


@pytest.fixture
def torchs_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps its own lock, which is a file that is there."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / OP).mkdir()
    return tmp_path / OP / "lock"


def build_and_die(started: Any) -> None:
    """What a rank does that is killed while it compiles."""
    with sole_builder(OP):
        os.open(Path(os.environ["TORCH_EXTENSIONS_DIR"]) / OP / "lock", os.O_CREAT | os.O_EXCL)
        started.set()
        multiprocessing.Event().wait()


def test_a_killed_builder_leaves_no_lock(torchs_lock: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    process = spawn.Process(target=build_and_die, args=(started,))
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    assert torchs_lock.exists()
    with sole_builder(OP):  # which waits for no one
        assert not torchs_lock.exists()


def test_a_builder_of_somebody_else_keeps_its_lock(torchs_lock: Path) -> None:
    with torchs_lock.open("x"), sole_builder(OP):
        assert torchs_lock.exists()


def test_a_directory_that_is_not_there_yet_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "new"))
    with sole_builder(OP):
        assert (tmp_path / "new").is_dir()
