"""When a gang may wait for its first missing row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raydsinfer.config import GenerationConfig
from raydsinfer.rows.columns import InputColumns
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.store import RunStore
from raydsinfer.scoring.gang_scorer import may_hold_all
from raydsinfer.scoring.kept_run import KeptRun, RunRequest

IDENTITY = RunIdentity(settings={})


def run_with(run_dir: Path, errors: list[str], **settings: Any) -> KeptRun:
    store, request = RunStore(run_dir), RunRequest(run_dir=str(run_dir), **settings)
    store.begin(IDENTITY, num_rows=None, resume=True)
    keys = [bytes([number]) * 16 for number in range(len(errors))]
    store.commit(keys, pa.table({"output": ["x"] * len(errors), "error": errors}), seconds=1, num_restarts=0)
    return KeptRun(
        request=request,
        store=store,
        index=store.build_index(retry_failed=request.retry_failed),
        identity=IDENTITY,
        generation=GenerationConfig(),
        input_columns=InputColumns(),
    )


@pytest.mark.parametrize(
    ("errors", "settings", "all_may_be_there"),
    [
        (["", ""], {"num_rows": 2}, True),
        (["", ""], {"num_rows": 3}, False),
        (["", ""], {}, False),  # nobody knows how many there are
        ([], {"num_rows": 1}, False),
        (["", "bad"], {"num_rows": 2}, True),
        (["", "bad"], {"num_rows": 2, "retry_failed": True}, False),
    ],
)
def test_a_gang_is_started_before_there_are_batches_unless_perhaps_no_row_is_missing(
    tmp_path: Path, errors: list[str], settings: dict[str, Any], all_may_be_there: bool
) -> None:
    assert may_hold_all(run_with(tmp_path, errors, **settings)) is all_may_be_there
