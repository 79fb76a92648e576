"""Jobs in a run directory: what is committed is found again, by whatever process, and nothing else is."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.config import GenerationConfig
from raydsinfer.errors import InvalidSettingError, RunDirectoryError
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.store import RunStore
from tests.runs import IDENTITY, answers_to, begun, commit, found, keys_of


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def test_committed_rows_are_found_and_others_are_not(run_dir: str) -> None:
    store = begun(run_dir)
    assert found(store, range(5)) == {}
    commit(store, range(10))
    commit(store, range(10, 15))
    assert found(store, [3, 12, 20, 14, 3]) == {3: "answer 3", 12: "answer 12", 14: "answer 14"}
    again = begun(run_dir, resume=True)
    commit(again, [20])
    assert found(again, range(30)) == {n: f"answer {n}" for n in [*range(15), 20]}


def test_a_table_comes_back_with_its_types_in_the_order_of_the_places(run_dir: str) -> None:
    table = pa.table(
        {
            "output": pa.array([["a", "b"], ["c"], []], pa.list_(pa.string())),
            "num_output_tokens": pa.array([[1, 2], [3], []], pa.list_(pa.int64())),
            "logprobs": pa.array([[-0.5], None, []], pa.list_(pa.float32())),
            "kept ☃ column": pa.array([b"\0", None, b"x"], pa.binary()),
        }
    )
    store = begun(run_dir)
    store.commit(keys_of(range(3)), table, seconds=1.0, num_restarts=0)
    index = pickle.loads(pickle.dumps(store.build_index()))  # noqa: S301
    places = index.find(keys_of([2, 0, 1, 0]))
    assert index.read(places) == table.take([2, 0, 1, 0])
    assert index.read(places[:1], ["logprobs"]).column_names == ["logprobs"]
    assert store.status().num_output_tokens == 6


def test_failed_rows_are_stored_and_passed_over_on_demand(run_dir: str) -> None:
    store = begun(run_dir, num_rows=6)
    commit(store, range(5), failed=[1, 3])
    index = store.build_index()
    assert [place.failed for place in index.find(keys_of(range(5))) if place] == [False, True, False, True, False]
    assert (len(index), index.num_errors, index.num_failed(keys_of([1, 2, 9]))) == (5, 2, 1)
    assert set(found(store, range(5), retry_failed=True)) == {0, 2, 4}
    keys, answers = keys_of([1, 3]), answers_to([1, 3], failed=[3])
    store.commit(keys, answers, seconds=1.0, num_restarts=0, num_retried=2)
    assert set(found(store, range(5), retry_failed=True)) == {0, 1, 2, 4}
    status = store.status()
    assert (status.num_done, status.num_failed, status.num_left) == (4, 1, 1)


def test_a_row_that_was_stored_twice_is_there_once(run_dir: str) -> None:
    store = begun(run_dir)
    commit(store, range(4), suffix=" old")
    commit(store, [2, 3, 4], failed=[3], suffix=" new")
    expected = {0: "answer 0 old", 1: "answer 1 old", 2: "answer 2 new", 3: "answer 3 old", 4: "answer 4 new"}
    assert found(store, range(6)) == expected
    index = store.build_index()
    rows = [row for number in range(2) for row in index.read_part(number)["output"].to_pylist()]
    assert sorted(rows) == sorted(expected.values())


def test_other_settings_have_rows_of_their_own(run_dir: str) -> None:
    store = begun(run_dir, num_rows=3)
    commit(store, range(3))
    other, longer = RunIdentity(settings={"model_content": "x"}), GenerationConfig(max_new_tokens=99)
    assert store.build_index().find(keys_of(range(3), other)) == [None] * 3
    assert store.build_index().find(keys_of(range(3), call=longer)) == [None] * 3
    again = RunStore(run_dir)
    again.begin(IDENTITY, num_rows=3, resume=True, generation=longer)
    again.commit(keys_of([0], call=longer), answers_to([0]), seconds=1.0, num_restarts=0)
    status = again.status()
    assert (status.num_done, status.num_left, status.num_other_rows, status.num_starts) == (1, 2, 3, 1)
    assert len(again.parts_of_last_settings()) == 1
    assert found(again, range(3)) == {n: f"answer {n}" for n in range(3)}


def test_a_store_that_did_not_begin_commits_for_the_last_job(run_dir: str) -> None:
    begun(run_dir, num_rows=2)
    commit(RunStore(run_dir), [0])
    assert RunStore(run_dir).status().num_done == 1


def test_a_store_travels_without_its_rows(run_dir: str) -> None:
    store = begun(run_dir)
    commit(pickle.loads(pickle.dumps(store)), range(100))  # noqa: S301
    assert len(pickle.dumps(store)) < 1000
    assert len(pickle.dumps(store.build_index())) < 1000
    assert store.status().num_done == 100


def test_what_a_finished_job_says_counts(run_dir: str) -> None:
    store = begun(run_dir, num_rows=10)
    commit(store, range(4))  # the others share these answers
    assert (store.status().num_left, store.status().finished) == (6, False)
    store.finish(num_rows=10, num_errors=1)
    status = store.status()
    assert (status.num_done, status.num_failed, status.num_left, status.finished) == (9, 1, 0, True)
    assert begun(run_dir, num_rows=10, resume=True).status().finished is False


def test_no_rows_are_no_part(run_dir: str) -> None:
    store = begun(run_dir)
    commit(store, [])
    assert len(store.build_index()) == 0
    assert store.build_index().find([]) == []
    assert store.status().num_done == 0
    assert store.status().num_left is None


def test_what_cannot_be_kept_is_refused(run_dir: str) -> None:
    store = begun(run_dir)
    with pytest.raises(InvalidSettingError, match="__row_key__"):
        store.commit(keys_of([0]), pa.table({"__row_key__": [1]}), seconds=1.0, num_restarts=0)
    strange = pa.array([pa.MonthDayNano([1, 2, 3])])
    with pytest.raises(RunDirectoryError, match="cannot be kept as Parquet"):
        store.commit(keys_of([0]), pa.table({"a": strange}), seconds=1.0, num_restarts=0)
    with pytest.raises(ValueError, match="16 bytes"):
        store.commit([b"short"], answers_to([0]), seconds=1.0, num_restarts=0)
    assert len(store.build_index()) == 0


def _write(run_dir: str, numbers: range) -> None:
    store = RunStore(run_dir)
    for number in numbers:
        commit(store, [number])
    store.build_index()


def test_two_writers_at_once_are_fine(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_write, args=(str(tmp_path / "run"), range(20)))
    other.start()
    while other.is_alive():
        _write(str(tmp_path / "run"), range(10, 30))
    assert other.exitcode == 0
    assert found(begun(tmp_path / "run", resume=True), range(40)) == {n: f"answer {n}" for n in range(30)}


def test_nothing_in_the_directory_comes_from_the_data(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    hostile = "../../etc/passwd\0; rm -rf /"
    identity = replace(IDENTITY, model=hostile)
    store.begin(identity, num_rows=None, resume=False, generation=GenerationConfig(stop_strings=hostile))
    table = answers_to([0]).append_column(hostile, pa.array([hostile]))
    store.commit(keys_of([0], identity), table, seconds=1.0, num_restarts=0)
    store.build_index()
    names = {path.relative_to(tmp_path / "run").parts[0] for path in tmp_path.rglob("*") if path != tmp_path / "run"}
    assert names == {"run.json", "parts", "keys", "manifests", "starts", "index"}
    assert not [path for path in tmp_path.rglob("*") if "etc" in path.name]
    assert os.listdir(tmp_path) == ["run"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.lists(st.integers(0, 20), max_size=8), st.booleans(), st.booleans()), max_size=6))
def test_a_store_is_a_dictionary_that_prefers_answers(batches: list[tuple[list[int], bool, bool]]) -> None:
    store = begun(f"memory://{uuid.uuid4().hex}")
    model: dict[int, tuple[bool, int]] = {}
    for step, (numbers, fails, indexes) in enumerate(batches):
        rows = sorted(set(numbers))
        commit(store, rows, failed=rows if fails else (), suffix=f"@{step}")
        for number in rows:
            if not (fails and number in model and not model[number][0]):
                model[number] = (fails, step)
        if indexes:
            store.build_index()
    expected = {n: "" if failed else f"answer {n}@{step}" for n, (failed, step) in model.items()}
    assert found(store, range(21)) == dict(sorted(expected.items()))
    answered = {n: text for n, text in expected.items() if text}
    assert found(store, range(21), retry_failed=True) == dict(sorted(answered.items()))


def test_a_start_says_what_with_and_no_secrets(tmp_path: Path) -> None:
    identity = replace(IDENTITY, model=without_secrets("s3://key:hush@bucket/model?sign=hush"))
    RunStore(tmp_path / "run").begin(identity, num_rows=7, resume=False, generation=GenerationConfig(top_k=3))
    (start,) = (tmp_path / "run" / "starts").iterdir()
    text = start.read_text()
    assert all(said in text for said in ('"engine": "echo"', '"num_rows": 7', '"top_k": 3', "s3://bucket/model"))
    assert "hush" not in text
