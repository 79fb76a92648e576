from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydsinfer.checkpoints.sources.local_copy import MANIFEST, LocalCopy
from raydsinfer.errors import CheckpointError

STAMPS = {"config.json": "1", "sub/a.json": "2"}


@pytest.fixture
def copy(tmp_path: Path) -> LocalCopy:
    return LocalCopy(directory=tmp_path / "models" / "opt", source="abc", weights=True)


def make(copy: LocalCopy, stamps: dict[str, str]) -> None:
    copy.lock()
    copy.prepare(stamps)
    for name in stamps:
        (copy.part / name).parent.mkdir(exist_ok=True)
        if not (copy.part / name).exists():
            (copy.part / name).write_text(name)
    copy.commit(stamps)


def test_a_copy_is_whole_when_it_has_its_name(copy: LocalCopy) -> None:
    copy.lock()
    copy.prepare(STAMPS)
    assert not copy.is_whole()
    assert not copy.directory.exists()
    make(copy, STAMPS)
    assert copy.is_whole()
    assert copy.files() == {"config.json": (11, "1"), "sub/a.json": (10, "2")}
    assert copy.num_bytes() == 21
    assert not copy.part.exists()


def test_a_copy_without_weights_will_not_do_for_one_with(copy: LocalCopy) -> None:
    small = LocalCopy(directory=copy.directory, source="abc", weights=False)
    make(small, STAMPS)
    assert small.is_whole()
    assert not copy.is_whole()
    copy.require_room()
    make(copy, {**STAMPS, "model.safetensors": "3"})
    assert small.is_whole()
    assert copy.is_whole()


def test_what_nothing_speaks_for_is_not_taken_over(copy: LocalCopy) -> None:
    copy.part.mkdir(parents=True)
    (copy.part / "config.json").write_text("half")
    make(copy, STAMPS)
    assert (copy.directory / "config.json").read_text() == "config.json"


def test_a_process_that_died_between_two_names_costs_nothing(copy: LocalCopy) -> None:
    make(copy, STAMPS)
    old = copy.directory.with_name(".opt.old")
    shutil.copytree(copy.directory, old)
    copy.directory.rename(copy.part)
    make(copy, STAMPS)
    assert copy.is_whole()
    assert [path.name for path in copy.directory.parent.iterdir()] == ["opt"]


@pytest.mark.parametrize("content", ["", "[]", '{"files": {"a": 1}}', '{"source": "abc"}'])
def test_a_manifest_that_cannot_be_read_is_none(copy: LocalCopy, content: str) -> None:
    make(copy, STAMPS)
    (copy.directory / MANIFEST).write_text(content)
    assert not copy.is_whole()
    with pytest.raises(CheckpointError, match="holds something else"):
        copy.require_room()


def test_a_manifest_cannot_reach_out_of_the_directory(copy: LocalCopy) -> None:
    make(copy, STAMPS)
    outside = copy.directory.parent / "outside.json"
    outside.write_text("mine")
    copy.directory.rename(copy.part)
    manifest = json.loads((copy.part / MANIFEST).read_text())
    for name in ("../outside.json", str(outside)):
        manifest["files"][name] = {"bytes": 1, "stamp": "1"}
    (copy.part / MANIFEST).write_text(json.dumps(manifest))
    make(copy, STAMPS)
    assert outside.read_text() == "mine"


def test_where_a_disk_is_mounted_nothing_can_be_renamed() -> None:
    shm = LocalCopy(directory=Path("/proc"), source="abc", weights=True)
    with pytest.raises(CheckpointError, match=r"/proc: is where a disk is mounted.*Give a directory below it"):
        shm.require_room()
