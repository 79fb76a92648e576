"""Indices: of many buckets, made on top of older ones, and never more in memory than a bucket."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from raydsinfer.runs import building
from raydsinfer.runs.store import RunStore
from tests.runs import begun, commit, found


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setattr(building, "_BUCKET_ROWS", 8)
    monkeypatch.setattr(building, "_SPOOL_ROWS", 16)
    return begun(tmp_path / "run" if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def num_bits(store: RunStore) -> int:
    return store.build_index()._opened().num_bits


def test_buckets_grow_in_number_with_the_rows(store: RunStore) -> None:
    for start, bits in ((0, 1), (10, 2), (20, 2), (30, 3), (40, 3)):
        commit(store, range(start, start + 10), failed=[start])
        assert len(found(store, range(100))) == start + 10
        assert num_bits(store) == bits
    index = store.build_index()
    assert (len(index), index.num_errors) == (50, 5)
    assert sum(index._opened().bucket_rows) == 50


def test_buckets_have_an_upper_limit(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_MOST_BITS", 1)
    commit(store, range(200))
    assert num_bits(store) == 1
    assert len(found(store, range(200))) == 200


def test_an_index_is_made_on_top_of_the_last(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, range(30))
    store.build_index()
    read: list[int] = []
    of_parts = building._of_parts
    monkeypatch.setattr(building, "_of_parts", lambda *args: read.append(len(args[1])) or of_parts(*args))
    store.build_index()
    assert read == []  # nothing is new
    commit(store, range(30, 40))
    assert len(found(store, range(50))) == 40
    assert read == [1]


def test_a_part_that_was_removed_is_not_in_the_next_index(tmp_path: Path) -> None:
    store = begun(tmp_path)
    commit(store, range(5))
    commit(store, range(5, 10))
    store.build_index()
    min((tmp_path / "manifests").iterdir()).unlink()
    assert list(found(store, range(10))) == [5, 6, 7, 8, 9]


def test_scratch_files_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    store = begun(f"memory://{uuid.uuid4().hex}")
    commit(store, range(50))
    assert len(found(store, range(50))) == 50
    assert list((tmp_path / "scratch").iterdir()) == []
