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
    (copy.part / MANIFEST).write_text("")
    make(copy, STAMPS)
    assert (copy.directory / "config.json").read_text() == "config.json"


@pytest.mark.parametrize("name", [None, f"{MANIFEST}.part"])
def test_a_process_that_died_at_once_left_nothing_to_keep(copy: LocalCopy, name: str | None) -> None:
    copy.part.mkdir(parents=True)
    if name:
        (copy.part / name).write_text("{")
    make(copy, STAMPS)
    assert copy.is_whole()


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_no_fetch_made_is_left_alone(copy: LocalCopy, tmp_path: Path, kind: str) -> None:
    copy.lock()
    mine = tmp_path / "mine" if kind == "link" else copy.part
    if kind == "file":
        mine.write_text("my work")
    else:
        mine.mkdir()
        (mine / "thesis.tex").write_text("my work")
    if kind == "link":
        copy.part.symlink_to(mine)
    with pytest.raises(CheckpointError, match=r"\.opt\.part: .*was not made by a fetch"):
        make(copy, STAMPS)
    assert (mine if kind == "file" else mine / "thesis.tex").read_text() == "my work"


def test_only_replaced_copies_are_removed(copy: LocalCopy) -> None:
    make(copy, STAMPS)
    parent = copy.directory.parent
    for name in (".opt.old", ".opt.old-01234567"):
        (parent / name).mkdir()
        (parent / name / "thesis.tex").write_text("my work")
    shutil.copytree(copy.directory, parent / ".opt.old-89abcdef")
    make(copy, {**STAMPS, "config.json": "new"})
    assert {path.name for path in parent.iterdir()} == {"opt", ".opt.old", ".opt.old-01234567"}


def test_files_of_the_user_stay_beside_weights_that_come_later(copy: LocalCopy) -> None:
    make(LocalCopy(directory=copy.directory, source="abc", weights=False), STAMPS)
    (copy.directory / "notes.txt").write_text("my work")
    (copy.directory / "model.safetensors").write_text("not from there")
    stamps = {**STAMPS, "model.safetensors": "3"}
    copy.prepare(stamps)
    assert (copy.part / "config.json").exists()
    assert not (copy.part / "model.safetensors").exists()
    (copy.directory / "sub" / "late.txt").write_text("more work")
    (copy.part / "model.safetensors").write_text("weights")
    copy.commit(stamps)
    assert copy.is_whole()
    assert (copy.directory / "notes.txt").read_text() == "my work"
    assert (copy.directory / "sub" / "late.txt").read_text() == "more work"
    assert (copy.directory / "model.safetensors").read_text() == "weights"


def test_a_process_that_died_between_two_names_costs_nothing(copy: LocalCopy) -> None:
    make(copy, STAMPS)
    old = copy.directory.with_name(".opt.old-0123abcd")
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
