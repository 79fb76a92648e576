"""What killed commands left of their outputs goes with the next one; what anybody still writes stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec

from raydsinfer.cli.unfinished import finished_name, remove_abandoned, unfinished_name


def name_of_a_dead_process(name: str) -> str:
    code = f"from raydsinfer.cli.unfinished import unfinished_name; print(unfinished_name({name!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_only_what_dead_processes_left_of_this_output_is_removed(tmp_path: Path) -> None:
    dead = name_of_a_dead_process("out.jsonl")
    kept = [
        unfinished_name("out.jsonl"),
        finished_name("out.jsonl"),
        dead.replace("out.jsonl", "other.jsonl"),
        f"{dead}-replaced",  # a directory that was there before
        dead.replace(".partial-", ".partial-0"),  # of another machine
        "out.jsonl",
    ]
    for name in [dead, *kept]:
        (tmp_path / name).write_text("rows")
    remove_abandoned(fsspec.filesystem("file"), str(tmp_path), "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_directories_of_parts_too(tmp_path: Path) -> None:
    dead = tmp_path / name_of_a_dead_process("out")
    dead.mkdir()
    (dead / "part-00000.parquet").write_text("rows")
    remove_abandoned(fsspec.filesystem("file"), str(tmp_path), "out")
    assert list(tmp_path.iterdir()) == []


def test_other_file_systems_and_missing_directories_are_left_alone(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/unfinished/{name_of_a_dead_process('out')}", b"rows")
    remove_abandoned(memory, "/unfinished", "out")
    assert len(memory.find("/unfinished")) == 1
    memory.rm("/unfinished", recursive=True)
    remove_abandoned(fsspec.filesystem("file"), str(tmp_path / "nowhere"), "out")
