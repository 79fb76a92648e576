"""Directories that become runs, that are runs, and that are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.store import RunStore
from tests.runs import begun, commit, found


def test_a_new_or_empty_directory_becomes_one(tmp_path: Path) -> None:
    begun(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")
    begun(tmp_path / "c", resume=True)
    assert json.loads((tmp_path / "c" / "run.json").read_text())["format"] == "raydsinfer run"


def test_a_run_is_gone_on_with_only_when_that_is_said(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"holds a run already.*--resume"):
        begun(tmp_path / "run")
    begun(tmp_path / "run", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_run_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(RunDirectoryError, match=r"holds other files, such as 'letters.txt'"):
        begun(tmp_path, resume=resume)
    assert os.listdir(tmp_path) == ["letters.txt"]
    with pytest.raises(RunDirectoryError, match="letters"):
        begun(tmp_path / "letters.txt", resume=resume)


def test_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    header = tmp_path / "run" / "run.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    for action in (lambda: begun(tmp_path / "run", resume=True), RunStore(tmp_path / "run").status):
        with pytest.raises(RunDirectoryError, match=r"is of version 2, written by raydsinfer.*knows 1"):
            action()


@pytest.mark.parametrize("content", [b"", b'{"format": "raydsinf', b"\xff\xfe", b"[]", b'{"format": "other"}'])
def test_a_header_that_is_none_can_be_removed(tmp_path: Path, content: bytes) -> None:
    commit(begun(tmp_path / "run"), [1])
    (tmp_path / "run" / "run.json").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"run.json: is not what a run directory has.*remove the file"):
        begun(tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        begun(tmp_path / "run")
    assert found(begun(tmp_path / "run", resume=True), [1]) == {1: "answer 1"}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="Not a directory"):
        begun(tmp_path / "file" / "run")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(RunDirectoryError, match="Permission denied"):
            begun(tmp_path / "locked" / "run")


def test_a_status_needs_a_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunDirectoryError, match="is no run directory"):
            RunStore(place).status()
    begun(tmp_path / "run")
    for start in (tmp_path / "run" / "starts").iterdir():
        start.unlink()
    with pytest.raises(RunDirectoryError, match="no job has started in it"):
        RunStore(tmp_path / "run").status()
