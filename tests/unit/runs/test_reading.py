"""The parts of a run as tables, each key once; `tests/cluster/test_kept_rows.py` reads them through Ray Data."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydsinfer.runs.reading import _Reader
from tests.runs import begun, commit


def test_each_key_comes_once_in_tasks_of_several_parts(tmp_path: Path) -> None:
    store = begun(tmp_path)
    commit(store, range(6), failed=[2])
    commit(store, [2, 6, 7])
    commit(store, [7, 8])
    reader = pickle.loads(pickle.dumps(_Reader(store.build_index())))  # noqa: S301
    one, other = (pa.concat_tables(reader.read({"number": np.array(numbers)})) for numbers in ([0, 2], [1]))
    assert one["output"].to_pylist() == [f"answer {n}" for n in (0, 1, 3, 4, 5, 7, 8)]
    assert other["output"].to_pylist() == ["answer 2", "answer 6"]
    assert one.schema == other.schema
    assert "__row_key__" not in one.column_names


def test_no_parts_are_no_rows(tmp_path: Path) -> None:
    assert list(_Reader(begun(tmp_path).build_index()).read({})) == []
