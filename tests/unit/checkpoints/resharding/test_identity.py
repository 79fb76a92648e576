from __future__ import annotations

import os
from pathlib import Path

from raydsinfer.checkpoints.resharding.identity import identify

LARGE = 2**20


def test_times_tell_nothing_of_files_that_are_read_whole(tmp_path: Path) -> None:
    for name, content in {"config.json": b"{}", "large.json": b" " * LARGE, "a.safetensors": b"small"}.items():
        (tmp_path / name).write_bytes(content)
        before = identify(tmp_path, [name])
        os.utime(tmp_path / name, ns=(1, 1))
        assert identify(tmp_path, [name]).same_as(before), name


def test_times_tell_of_changes_between_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(LARGE))
    before = identify(tmp_path, [path.name])
    with path.open("r+b") as stream:
        stream.seek(10_000)
        stream.write(b"x")
    os.utime(path, ns=(1, 1))
    after = identify(tmp_path, [path.name])
    assert after.content == before.content
    assert not after.same_as(before)


def test_other_bytes_are_another_source(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    found, before = path.stat(), identify(tmp_path, [path.name])
    path.write_text("[]")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert not identify(tmp_path, [path.name]).same_as(before)
