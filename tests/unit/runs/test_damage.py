"""Files that were cut off, changed or lost: their rows are missing or refused, never wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.store import RunStore
from tests.runs import begun, commit, found, keys_of


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = begun(tmp_path / "run")
    commit(store, range(10))
    commit(store, range(10, 20))
    return store


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def first(directory: Path, folder: str) -> Path:
    return min((directory / "run" / folder).iterdir())


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize("folder", ["manifests", "parts", "keys"])
def test_a_part_that_is_not_whole_does_not_count(
    store: RunStore, tmp_path: Path, folder: str, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    damage(first(tmp_path, folder))
    with caplog.at_level(logging.WARNING):
        assert found(store, range(20)) == {n: f"answer {n}" for n in range(10, 20)}
    assert bool(caplog.records) == (folder != "manifests" or damage is not Path.unlink)
    assert store.status().num_done == 10
    commit(store, range(10))
    assert len(found(store, range(20))) == 20


@pytest.mark.parametrize("damage", [cut, empty, changed])
def test_a_manifest_that_was_damaged_after_the_index_was_made(
    store: RunStore, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    index = store.build_index()
    damage(first(tmp_path, "manifests"))
    with pytest.raises(RunDirectoryError, match=r"is not as it was written. Remove .*manifests/"):
        index.read(index.find(keys_of([1])))  # type: ignore[arg-type]


@pytest.mark.parametrize("index_first", [False, True])
def test_changed_bytes_are_refused_with_what_to_do(store: RunStore, tmp_path: Path, index_first: bool) -> None:
    if index_first:
        store.build_index()
    changed(first(tmp_path, "parts"))
    with pytest.raises(RunDirectoryError, match=r"parts/.* is not as it was written. Remove .*manifests/") as caught:
        found(store, range(20))
    Path(str(caught.value).partition("Remove ")[2].partition(" and start")[0]).unlink()
    assert set(found(store, range(20))) == set(range(10, 20))


def test_changed_keys_are_refused(store: RunStore, tmp_path: Path) -> None:
    changed(first(tmp_path, "keys"))
    with pytest.raises(RunDirectoryError, match=r"keys/.* is not as it was written"):
        store.build_index()


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize("name", ["index.json", "bucket-0000"])
def test_an_index_that_is_not_whole_is_made_anew(
    store: RunStore, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    index = store.build_index()
    damage(first(tmp_path, "index") / name)
    with pytest.raises(RunDirectoryError, match="the index is not as it was written"):
        index.find(keys_of([1]))
    assert len(found(store, range(20))) == 20


def test_an_index_that_points_elsewhere_gives_no_wrong_answer(store: RunStore, tmp_path: Path) -> None:
    store.build_index()
    bucket = first(tmp_path, "index") / "bucket-0000"
    content = bytearray(bucket.read_bytes())
    content[20 * 20 : 20 * 20 + 4], content[20 * 20 + 4 : 20 * 20 + 8] = content[404:408], content[400:404]
    bucket.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="it does not fit part"):
        found(store, range(20))


def test_rubbish_beside_the_files_is_passed_over(store: RunStore, tmp_path: Path) -> None:
    for folder in ("manifests", "parts", "keys", "starts", "index"):
        (tmp_path / "run" / folder / "notes.json").write_text("{")
        (tmp_path / "run" / folder / ".DS_Store").write_bytes(b"\0")
        (tmp_path / "run" / folder / "folder").mkdir()
    assert len(found(store, range(20))) == 20
    assert store.status().num_done == 20
