"""What killed writers left goes when it is old; nothing else does."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import new_id, temporary_name
from raydsinfer.runs.sweeping import sweep
from tests.runs import begun, commit, found

OLD = "20200101T000000000000Z-0123456789ab"


def leavings(run: Path, name: str) -> list[Path]:
    paths = [
        *(run / "parts" / f"{name}.parquet", run / "keys" / name),
        *(run / "parts" / temporary_name(f"{name}.parquet"), run / "manifests" / temporary_name(f"{name}.json")),
        run / "starts" / temporary_name(f"{name}.json"),
    ]
    for path in paths:
        path.write_bytes(b"half")
    return paths


def test_old_remains_go_and_young_ones_stay(tmp_path: Path) -> None:
    store = begun(tmp_path)
    commit(store, range(5))
    old, young = leavings(tmp_path, OLD), leavings(tmp_path, new_id())
    foreign = tmp_path / "parts" / "notes.txt"
    foreign.touch()
    sweep(RunFiles(tmp_path))
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in [*young, foreign])
    assert len(found(store, range(5))) == 5


def test_whole_parts_and_starts_stay_however_old(tmp_path: Path) -> None:
    store = begun(tmp_path)
    commit(store, range(5))
    for path in [*tmp_path.rglob("*")]:
        if path.is_file() and path.name != "run.json":
            path.rename(path.with_name(OLD + path.name[len(OLD) :]))
    assert len(found(begun(tmp_path, resume=True), range(5))) == 5
    assert (tmp_path / "starts" / f"{OLD}.json").exists()


def test_of_old_indices_the_last_two_stay(tmp_path: Path) -> None:
    begun(tmp_path)
    names = [f"2020010{day}T000000000000Z-0123456789ab" for day in range(1, 6)]
    for name in names:
        (tmp_path / "index" / name).mkdir()
        (tmp_path / "index" / name / "bucket-0000").touch()
    sweep(RunFiles(tmp_path))
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == names[-2:]


def test_indices_of_the_last_weeks_stay_for_jobs_that_have_not_opened_theirs(tmp_path: Path) -> None:
    begun(tmp_path)
    began = datetime.now(timezone.utc)
    names = [f"{began - timedelta(days=days):%Y%m%dT%H%M%S%f}Z-0123456789ab" for days in (31, 29, 3, 2, 1)]
    for name in names:
        (tmp_path / "index" / name).mkdir()
    sweep(RunFiles(tmp_path))
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == names[1:]
