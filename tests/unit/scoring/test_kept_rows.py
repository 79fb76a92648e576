"""What a caller may say of a run, and what its rows' keys are made of."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raydsinfer.config import GenerationConfig
from raydsinfer.errors import InvalidSettingError, MissingColumnError, UnsupportedError
from raydsinfer.rows.columns import InputColumns
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.store import RunStore
from raydsinfer.scoring.kept_rows import KeptRows
from raydsinfer.scoring.kept_run import STORED_COLUMN, KeptRun, run_request

BATCH = pa.table({"id": [1, 2, 3], "prompt": ["a", "b", "a"], "generation": [None, '{"max_new_tokens": 5}', ""]})
IDENTITY = RunIdentity(settings={})


def kept_run(run_dir: Path, **settings: Any) -> KeptRun:
    store = RunStore(run_dir)
    store.begin(IDENTITY, num_rows=None, resume=True)
    request = run_request(run_dir, **settings)
    assert request is not None
    return KeptRun(
        request=request,
        store=store,
        index=store.build_index(retry_failed=request.retry_failed),
        identity=IDENTITY,
        generation=GenerationConfig(),
        input_columns=InputColumns(),
    )


def computed(batch: pa.Table) -> pa.Table:
    """What a gang gives for a batch: the prompt in capitals."""
    texts = [prompt.upper() for prompt in batch["prompt"].to_pylist()]
    numbers = {name: [1] * len(batch) for name in ("num_prompt_tokens", "num_output_tokens", "num_attempts")}
    output = {"output": texts, "finish_reason": ["stop"] * len(batch), "error": [""] * len(batch), **numbers}
    return pa.table(output).append_column("id", batch["id"])


def without_id(batch: pa.Table) -> pa.Table:
    """The same where no column is kept."""
    return computed(batch).drop_columns(["id"])


def never(batch: pa.Table) -> pa.Table:
    """A gang that nobody should ask."""
    raise AssertionError("computed again")


def test_equal_rows_have_equal_keys_unless_a_column_sets_them_apart(tmp_path: Path) -> None:
    once = kept_run(tmp_path / "once").keys(BATCH)
    assert once[0] == once[2] != once[1]
    each = kept_run(tmp_path / "each", duplicates="each", key_column="id").keys(BATCH)
    assert len({*once, *each}) == 5
    with pytest.raises(MissingColumnError, match="nr"):
        kept_run(tmp_path / "no", duplicates="each", key_column="nr").keys(BATCH)


def test_a_second_run_computes_nothing_and_keeps_the_columns_of_its_own_data(tmp_path: Path) -> None:
    first = KeptRows(kept_run(tmp_path), ["id"], report_attempts=False)
    table, new = first.answer(BATCH, computed, lambda: 0)
    assert table["output"].to_pylist() == ["A", "B", "A"]
    assert table.column_names[-2:] == ["error", "id"]
    assert new is not None
    assert len(new) == 2
    other = BATCH.set_column(0, "id", pa.array([7, 8, 9]))
    again = KeptRows(kept_run(tmp_path), ["id"], report_attempts=True)
    table, new = again.answer(other, never, lambda: 0)
    assert new is None
    assert (table["output"].to_pylist(), table["id"].to_pylist()) == (["A", "B", "A"], [7, 8, 9])
    assert table[STORED_COLUMN].to_pylist() == [True] * 3


def test_only_new_rows(tmp_path: Path) -> None:
    KeptRows(kept_run(tmp_path), [], report_attempts=False).answer(BATCH.slice(1, 1), without_id, lambda: 0)
    rows = KeptRows(kept_run(tmp_path, yield_stored=False), ["id"], report_attempts=False)
    assert rows.answer(BATCH, computed, lambda: 0)[0]["id"].to_pylist() == [1, 3]
    rows = KeptRows(kept_run(tmp_path, yield_stored=False), ["id"], report_attempts=False)
    table, _ = rows.answer(BATCH, never, lambda: 0)
    assert (table.num_rows, table.schema.field("id").type) == (0, pa.int64())


def test_restarts_are_kept_with_the_rows(tmp_path: Path) -> None:
    run = kept_run(tmp_path)
    KeptRows(run, [], report_attempts=False).answer(BATCH, without_id, lambda: 3)
    assert run.store.status().num_restarts == 3


def test_the_seconds_of_batches_that_overlap_count_once(tmp_path: Path) -> None:
    run, both = kept_run(tmp_path), threading.Barrier(2)
    rows = KeptRows(run, [], report_attempts=False)
    began = time.monotonic()

    def slow(batch: pa.Table) -> pa.Table:
        both.wait(timeout=30)
        time.sleep(0.3)
        return without_id(batch)

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda batch: rows.answer(batch, slow, lambda: 0), [BATCH.slice(0, 1), BATCH.slice(1, 1)]))
    assert 0.3 <= run.store.status().num_seconds <= time.monotonic() - began


def test_columns_that_stored_rows_would_lack_are_refused(tmp_path: Path) -> None:
    rows = KeptRows(kept_run(tmp_path), ["id"], report_attempts=False)
    with pytest.raises(UnsupportedError, match=r"of its own \(gang\)"):
        rows.answer(BATCH, lambda batch: computed(batch).append_column("gang", batch["prompt"]), lambda: 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"duplicates": "twice"}, "'once' or 'each'"),
        ({"duplicates": "each"}, "key_column=None"),
        ({"key_column": "id"}, "with duplicates='once'"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSettingError, match=says):
        run_request(tmp_path, **settings)


def test_without_a_directory_there_is_nothing_to_say() -> None:
    assert run_request(None, num_rows=5, resume=False) is None
    for settings in ({"retry_failed": True}, {"yield_stored": False}, {"duplicates": "each", "key_column": "id"}):
        with pytest.raises(InvalidSettingError, match="to stand with run_dir"):
            run_request(None, **settings)
