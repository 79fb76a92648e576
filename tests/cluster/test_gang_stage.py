"""BatchPredictor with gangs: every row once, and no placement group left, whatever happens."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from ray.data.preprocessor import Preprocessor
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
from raydsinfer.config import RecoveryConfig
from raydsinfer.errors import (
    ClusterCapacityError,
    InvalidSettingError,
    MissingColumnError,
    RestartsExhaustedError,
    UnknownSettingError,
    WorkerGroupError,
)
from raydsinfer.serving.service import ContinuousService
from raydsinfer.unwrap import unwrap
from tests.clusters import assert_nothing_left, left_of_gangs

# Ray Data leaves its log file open when a consumer stops early.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*ray-data:pytest.PytestUnraisableExceptionWarning"),
]

TWO_GPUS = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1})
QUICK = GangConfig(placement_timeout_s=60, start_timeout_s=60, call_timeout_s=60, lease_ttl_s=3)
OUTPUT = ["output", "finish_reason", "num_prompt_tokens", "num_output_tokens", "error"]


@pytest.fixture(autouse=True)
def _quiet(nothing_left: None) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False


def gangs(
    predictor: type[DeepSpeedPredictor] = DeepSpeedPredictor, kwargs: dict[str, Any] | None = None, **config: Any
) -> BatchPredictor:
    settings = {"engine": "echo", "max_tokens": 64, "max_batch_size": 4} | config
    checkpoint = DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(**settings))
    return BatchPredictor.from_checkpoint(
        checkpoint, predictor, **({"scaling_config": TWO_GPUS, "gang_config": QUICK} | (kwargs or {}))
    )


def prompts(num_rows: int, num_blocks: int = 3) -> ray.data.Dataset:
    return ray.data.from_items(
        [{"id": i, "prompt": f"row {i}"} for i in range(num_rows)], override_num_blocks=num_blocks
    )


def by_id(data: ray.data.Dataset) -> list[dict[str, Any]]:
    return sorted(data.take_all(), key=lambda row: row["id"])


def failure_of(data: ray.data.Dataset, caplog: pytest.LogCaptureFixture) -> BaseException:
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        data.materialize()
    # Ray Data logs the error itself, and with it, through its traceback, all actors of the execution.
    caplog.clear()
    return unwrap(caught.value)


class PlacesItself(DeepSpeedPredictor):
    """Says which gang answered, and in which batch a row was."""

    def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
        out = super()._predict_arrow(data, *args, **kwargs)
        out = out.append_column("gang", [[self.group.name] * len(data)])
        return out.append_column("place", [list(range(len(data)))])


def test_two_gangs_share_one_block(tmp_path: Path) -> None:
    data = prompts(40, num_blocks=1)
    out = gangs(PlacesItself, echo_delay_s=0.4).predict(data, keep_columns=["id"], batch_size=5, min_scoring_workers=2)
    assert left_of_gangs()["placement groups"] == [], "predict() started something"
    rows = by_id(out)
    assert [row["output"] for row in rows] == [f"row {i}" for i in range(40)]
    assert [row["place"] for row in rows] == [i % 5 for i in range(40)]
    assert len({row["gang"] for row in rows}) == 2
    # Lazy: consumed again, it runs again.
    assert out.count() == 40


def test_any_source_any_sink_and_kept_columns_of_any_type(tmp_path: Path) -> None:
    kept = pa.table(
        {
            "prompt": ["a", "", "c" * 70],
            "when": pa.array([1, 2, None], pa.timestamp("us", tz="UTC")),
            "tags": [["x"], [], None],
            "nested": [{"a": 1}, None, {"a": 3}],
            "generation": pa.array(
                [{"max_new_tokens": 5, "stop_strings": ["b"]}, None, {}],
                pa.struct(
                    [
                        ("max_new_tokens", pa.int64()),
                        ("stop_strings", pa.list_(pa.string())),
                        ("temperature", pa.float64()),
                    ]
                ),
            ),
        }
    )
    pq.write_table(kept, tmp_path / "in.parquet")
    out = gangs().predict(
        ray.data.read_parquet(str(tmp_path / "in.parquet")),
        keep_columns=["when", "tags", "nested"],
        max_scoring_workers=1,
    )
    out.write_parquet(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == [*OUTPUT, "when", "tags", "nested"]
    assert table.select(["when", "tags", "nested"]).equals(kept.select(["when", "tags", "nested"]))
    assert table["output"].to_pylist() == ["a", "", ""]
    assert [error.split(":")[0] for error in table["error"].to_pylist()] == ["", "prompt", "length"]
    assert table.schema.field("num_output_tokens").type == pa.int64()


def test_no_rows_have_the_right_schema(tmp_path: Path) -> None:
    known_empty = gangs().predict(ray.data.from_arrow(prompts_table(0)), keep_columns=["id"])
    found_empty = gangs().predict(
        ray.data.from_arrow(prompts_table(4)).map_batches(lambda t: t.slice(0, 0), batch_format="pyarrow"),
        max_scoring_workers=1,
        num_return_sequences=2,
        do_sample=True,
    )
    assert known_empty.schema().names == [*OUTPUT, "id"]
    assert known_empty.schema().types == [pa.string(), pa.string(), pa.int64(), pa.int64(), pa.string(), pa.int64()]
    assert found_empty.schema().names == OUTPUT
    assert found_empty.schema().types[0] == pa.list_(pa.string())
    assert known_empty.count() == found_empty.count() == 0
    assert found_empty.take_all() == []
    found_empty.write_json(str(tmp_path / "out"))


def prompts_table(num_rows: int) -> pa.Table:
    return pa.table({"prompt": pa.array(["a"] * num_rows, pa.string()), "id": pa.array(range(num_rows), pa.int64())})


def test_more_gangs_than_fit_are_no_failure() -> None:
    predictor = gangs(kwargs={"gang_config": QUICK.replaced({"placement_timeout_s": 1})}, echo_delay_s=0.3)
    out = predictor.predict(prompts(60), keep_columns=["id"], batch_size=4, max_scoring_workers=5)
    assert [row["output"] for row in by_id(out)] == [f"row {i}" for i in range(60)]


def test_a_failure_arrives_with_its_type_and_frees_all_gangs(caplog: pytest.LogCaptureFixture) -> None:
    faulty = gangs(
        kwargs={"recovery_config": RecoveryConfig(max_restarts=0)},
        echo_fault={"rank": 1, "prompt_contains": "row 7", "action": "raise"},
        batching="continuous",
    )
    out = faulty.predict(prompts(40), batch_size=4, min_scoring_workers=2)
    error = failure_of(out, caplog)
    assert isinstance(error, RestartsExhaustedError)
    assert "told to fail on rank 1" in str(error)
    # Not by the garbage collector: a notebook holds on to the last error.
    deadline = time.monotonic() + 10
    while left_of_gangs()["placement groups"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of_gangs()["placement groups"] == []


def test_a_rank_that_is_killed_once_costs_no_row(tmp_path: Path) -> None:
    fault = {"rank": 0, "prompt_contains": "row 7", "action": "kill", "once": str(tmp_path / "killed")}
    out = gangs(echo_fault=fault).predict(
        prompts(40), keep_columns=["id"], batch_size=4, max_scoring_workers=1, report_attempts=True
    )
    rows = by_id(out)
    assert [row["output"] for row in rows] == [f"row {i}" for i in range(40)]
    assert {row["num_attempts"] for row in rows} == {1, 2}
    assert rows[7]["num_attempts"] == 2


class KilledOnce(DeepSpeedPredictor):
    """Its process is killed in the middle of a batch, once."""

    def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
        flag = Path(os.environ["KILLED_ONCE"])
        out = super()._predict_arrow(data, *args, **kwargs)
        if 7 in data["id"].to_pylist() and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return out


def test_a_predictor_that_is_killed_loses_no_row(tmp_path: Path) -> None:
    # With several batches in it.
    out = gangs(KilledOnce, batching="continuous").predict(
        prompts(40),
        keep_columns=["id"],
        batch_size=4,
        max_scoring_workers=1,
        ray_remote_args={"runtime_env": {"env_vars": {"KILLED_ONCE": str(tmp_path / "killed")}}},
    )
    assert [row["output"] for row in by_id(out)] == [f"row {i}" for i in range(40)]
    assert (tmp_path / "killed").exists()


class KilledByARow(DeepSpeedPredictor):
    """One row ends its process, each time."""

    def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
        if 7 in data["id"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._predict_arrow(data, *args, **kwargs)


def test_a_predictor_that_a_row_kills_each_time_ends_the_job(caplog: pytest.LogCaptureFixture) -> None:
    kwargs = {"recovery_config": RecoveryConfig(max_job_restarts=1)}
    out = gangs(KilledByARow, kwargs=kwargs).predict(
        prompts(12), keep_columns=["id"], batch_size=4, max_scoring_workers=1
    )
    error = failure_of(out, caplog)
    assert isinstance(error, RestartsExhaustedError)
    assert (error.setting, error.limit) == ("max_job_restarts", 1)
    assert "a predictor's process died" in str(error)


class CountsSteps(DeepSpeedPredictor):
    """Says how many steps its engine had made when a batch left."""

    def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
        out = super()._predict_arrow(data, *args, **kwargs)
        service = self.service.present
        assert isinstance(service, ContinuousService)
        return out.append_column("num_steps", [[service.feeder.counts.num_steps] * len(data)])


def test_batches_overlap_where_the_engine_batches_continuously() -> None:
    # The first row of each batch is long: one batch after the other would take 12 x 95 steps.
    texts = [f"row {i:02}" + "." * (90 if i % 4 == 0 else 0) for i in range(48)]
    data = ray.data.from_items([{"id": i, "prompt": text} for i, text in enumerate(texts)], override_num_blocks=1)
    out = gangs(CountsSteps, batching="continuous", max_tokens=200, max_running=16, echo_delay_s=0.005).predict(
        data, keep_columns=["id"], batch_size=4, max_scoring_workers=1, max_new_tokens=100, return_logprobs=True
    )
    blocks = [table for table in map(ray.get, out.to_arrow_refs()) if table.num_rows]
    assert all(table.column_names == [*OUTPUT, "logprobs", "id", "num_steps"] for table in blocks)
    rows = [row for table in blocks for row in table.to_pylist()]
    assert sorted(row["id"] for row in rows) == list(range(48))
    assert all(row["output"] == texts[row["id"]] for row in rows)
    assert all(row["logprobs"] == [0.0] * row["num_output_tokens"] for row in rows)
    assert all(after["id"] == before["id"] + 1 for before, after in pairwise(rows) if after["id"] % 4)
    assert max(row["num_steps"] for row in rows) < 12 * 95 / 2


def test_a_gang_that_does_not_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    faulty = gangs(echo_fault={"when": "load", "rank": 1})
    error = failure_of(faulty.predict(prompts(8), max_scoring_workers=1), caplog)
    assert isinstance(error, WorkerGroupError)
    assert error.phase == "load"
    large = {
        "scaling_config": ScalingConfig(num_workers=9, use_gpu=True),
        "gang_config": QUICK.replaced({"placement_timeout_s": 1}),
    }
    assert isinstance(failure_of(gangs(kwargs=large).predict(prompts(8)), caplog), ClusterCapacityError)


def test_part_of_a_result() -> None:
    out = gangs().predict(prompts(100), batch_size=4, max_scoring_workers=1)
    assert len(out.take(3)) == 3


class Asks(Preprocessor):
    _is_fittable = False

    def _transform_numpy(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            "id": data["id"],
            "prompt": np.array([f"{text}?" for text in data["prompt"]]),
            "pid": np.array([os.getpid()] * len(data["id"])),
        }


@pytest.mark.parametrize("separate", [True, False])
def test_preprocessing_comes_first(separate: bool) -> None:
    class SaysPid(DeepSpeedPredictor):
        def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
            out = super()._predict_arrow(data, *args, **kwargs)
            return out.append_column("predictor", [[os.getpid()] * len(data)])

    predictor = gangs(SaysPid)
    predictor.set_preprocessor(Asks())
    rows = by_id(
        predictor.predict(
            prompts(6), keep_columns=["id", "pid"], max_scoring_workers=1, separate_gpu_stage=separate, max_new_tokens=9
        )
    )
    assert [row["output"] for row in rows] == [f"row {i}?" for i in range(6)]
    assert all((row["pid"] == row["predictor"]) is not separate for row in rows)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"max_new_tokns": 3}, UnknownSettingError, "Did you mean 'max_new_tokens'"),
        ({"temperature": -1.0}, InvalidSettingError, "temperature=-1.0"),
        ({"max_new_tokens": 64}, InvalidSettingError, "EngineConfig.max_tokens=64"),
        ({"keep_columns": ["output"]}, MissingColumnError, "'output', but the data has: 'id', 'prompt'"),
        ({"feature_columns": ["id"]}, MissingColumnError, "prompt_column"),
        ({"feature_columns": "prompt"}, InvalidSettingError, r"Write \['prompt'\]"),
        ({"num_gpus_per_worker": 3}, InvalidSettingError, "expected 2, the GPUs of a gang of 2 ranks"),
        ({"ray_remote_args": {"num_gpus": 1}}, InvalidSettingError, "The gang holds the GPUs"),
    ],
)
def test_mistakes_are_told_before_anything_starts(kwargs: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gangs().predict(prompts(3), **kwargs)


def test_a_cpu_gang_must_leave_ray_data_a_cpu() -> None:
    with pytest.raises(InvalidSettingError, match=r"at most 0\.75"):
        gangs(kwargs={"scaling_config": ScalingConfig(num_workers=4)}).predict(prompts(3))


def test_gpus_per_worker_are_a_gangs() -> None:
    out = gangs(kwargs={"scaling_config": None}).predict(
        prompts(4), keep_columns=["id"], num_gpus_per_worker=2, max_scoring_workers=1
    )
    assert [row["output"] for row in by_id(out)] == [f"row {i}" for i in range(4)]


def test_nothing_is_left_of_several_results() -> None:
    predictor = gangs()
    results = [predictor.predict(prompts(4), max_scoring_workers=1) for _ in range(2)]
    for result in results:
        result.materialize()
    del result, results
    assert_nothing_left()
