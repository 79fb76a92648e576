"""BatchPredictor with a run directory: what is stored is not computed again, and everything comes out once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
from raydsinfer.config import EchoFault, RecoveryConfig
from raydsinfer.errors import (
    ErrorRateError,
    InvalidSettingError,
    MissingColumnError,
    RowFailedError,
    RunDirectoryError,
    WorkerGroupError,
)
from raydsinfer.runs.store import RunStore
from raydsinfer.unwrap import unwrap

NO_START = EchoFault(when="load")
"""A gang that has to start fails."""


@pytest.fixture(autouse=True)
def _quiet(nothing_left: None) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False


def gangs(recovery: RecoveryConfig | None = None, **config: Any) -> BatchPredictor:
    settings = {"engine": "echo", "max_tokens": 64, "max_batch_size": 4} | config
    return BatchPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(**settings)),
        DeepSpeedPredictor,
        scaling_config=ScalingConfig(num_workers=1, use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1}),
        gang_config=GangConfig(placement_timeout_s=60, start_timeout_s=60, call_timeout_s=60, lease_ttl_s=3),
        recovery_config=recovery,
    )


def prompts(numbers: range, bad: tuple[int, ...] = ()) -> ray.data.Dataset:
    rows = [{"id": i, "prompt": "" if i in bad else f"row {i % 20}"} for i in numbers]
    return ray.data.from_items(rows, override_num_blocks=2)


def run(predictor: BatchPredictor, data: ray.data.Dataset, **kwargs: Any) -> list[dict[str, Any]]:
    out = predictor.predict(data, **({"keep_columns": ["id"], "batch_size": 5, "max_scoring_workers": 1} | kwargs))
    return sorted(out.take_all(), key=lambda row: row["id"])


def failure_of(predictor: BatchPredictor, data: ray.data.Dataset, caplog: Any, **kwargs: Any) -> BaseException:
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        run(predictor, data, **kwargs)
    caplog.clear()  # Ray Data's own record holds, through its traceback, all actors
    return unwrap(caught.value)


def test_only_what_is_missing_is_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = tmp_path / "run"
    first = run(gangs(), prompts(range(10), bad=(3,)), run_dir=run_dir)
    assert [row["output"] for row in first] == ["" if i == 3 else f"row {i}" for i in range(10)]
    assert RunStore(run_dir).status().num_done == 9
    # Everything is there: no gang starts, also for rows in another order and with other kept columns.
    assert run(gangs(echo_fault=NO_START), prompts(range(10), bad=(3,)), run_dir=run_dir) == first
    # Something is not.
    error = failure_of(gangs(echo_fault=NO_START), prompts(range(11)), caplog, run_dir=run_dir)
    assert isinstance(error, WorkerGroupError)
    more = run(gangs(), prompts(range(12), bad=(3,)), run_dir=run_dir, report_attempts=True)
    assert [row["was_stored"] for row in more] == [i < 10 for i in range(12)]
    assert [row["num_attempts"] for row in more] == [0 if i == 3 else 1 for i in range(12)]
    # Other settings are another matter.
    others = run(gangs(), prompts(range(4)), run_dir=run_dir, report_attempts=True, max_new_tokens=2)
    assert [(row["output"], row["was_stored"]) for row in others] == [("ro", False)] * 4
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        run(gangs(), prompts(range(4)), run_dir=run_dir, resume=False)


def test_failed_rows_are_tried_again_if_wanted_and_stored_ones_left_out(tmp_path: Path) -> None:
    run_dir, fault = tmp_path / "run", EchoFault(prompt_contains="row 3")
    first = run(gangs(echo_fault=fault), prompts(range(6)), run_dir=run_dir)
    assert [row["id"] for row in first if row["error"]] == [3]
    assert run(gangs(echo_fault=NO_START), prompts(range(6)), run_dir=run_dir, yield_stored=False) == []
    again = run(gangs(), prompts(range(6)), run_dir=run_dir, yield_stored=False, retry_failed=True)
    assert [(row["id"], row["output"], row["error"]) for row in again] == [(3, "row 3", "")]
    assert (RunStore(run_dir).status().num_done, RunStore(run_dir).status().num_failed) == (6, 0)


def test_equal_rows_once_or_each(tmp_path: Path) -> None:
    data = ray.data.from_items([{"id": i, "prompt": "same"} for i in range(5)], override_num_blocks=1)
    once = run(gangs(), data, run_dir=tmp_path / "once")
    each = run(gangs(), data, run_dir=tmp_path / "each", duplicates="each", key_column="id")
    assert once == each
    assert [row["output"] for row in once] == ["same"] * 5
    assert [RunStore(tmp_path / name).status().num_done for name in ("once", "each")] == [1, 5]
    assert run(gangs(echo_fault=NO_START), data, run_dir=tmp_path / "each", duplicates="each", key_column="id") == each


def test_policies_end_a_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strict = RecoveryConfig(on_error="raise")
    error = failure_of(gangs(strict), prompts(range(20), bad=(7,)), caplog, run_dir=tmp_path / "run")
    assert isinstance(error, RowFailedError)
    assert "the prompt is empty" in str(error)
    lenient = RecoveryConfig(max_error_rate=0.2)
    assert (
        sum(bool(row["error"]) for row in run(gangs(lenient), prompts(range(120), bad=tuple(range(0, 120, 6))))) == 20
    )
    error = failure_of(gangs(lenient), prompts(range(400), bad=tuple(range(0, 400, 4))), caplog)
    assert isinstance(error, ErrorRateError)
    assert 100 <= error.num_rows < 400


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"retry_failed": True}, InvalidSettingError, "to stand with run_dir"),
        ({"key_column": "id"}, InvalidSettingError, "to stand with run_dir"),
        ({"run_dir": "RUN", "duplicates": "each"}, InvalidSettingError, "key_column=None"),
        ({"run_dir": "RUN", "key_column": "id"}, InvalidSettingError, "duplicates='once'"),
        ({"run_dir": "RUN", "duplicates": "each", "key_column": "nr"}, MissingColumnError, "'nr'"),
        ({"run_dir": "/proc/run"}, RunDirectoryError, "/proc/run"),
        ({"run_dir": "nosuch://run"}, RunDirectoryError, "nosuch"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    tmp_path: Path, kwargs: dict[str, Any], error: type[Exception], words: str
) -> None:
    kwargs = {name: str(tmp_path / "run") if value == "RUN" else value for name, value in kwargs.items()}
    with pytest.raises(error, match=words):
        run(gangs(), prompts(range(3)), **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_column_with_the_name_of_the_keys_is_told_before_anything_starts(tmp_path: Path) -> None:
    data = ray.data.from_items([{"__row_key__": 1, "prompt": "row 1"}])
    with pytest.raises(InvalidSettingError, match="__row_key__"):
        run(gangs(), data, run_dir=tmp_path / "run", keep_columns=["__row_key__"])
    assert list(tmp_path.iterdir()) == []
