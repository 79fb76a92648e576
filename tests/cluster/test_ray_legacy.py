"""With Ray up to 2.55, which has `ray.train.predictor.Predictor`: ours is one, and Ray's works in ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import ray
import ray.data
from ray.train import Checkpoint, ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig, Predictor
from raydsinfer.errors import MissingColumnError, WorkerGroupError
from raydsinfer.predictor import PredictorNotSerializableException
from raydsinfer.unwrap import unwrap
from tests.clusters import assert_nothing_left

legacy = pytest.importorskip("ray.train.predictor", reason="this Ray has no Predictor any more")

TWO_GPUS = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1})
OUTPUT = ["output", "finish_reason", "num_prompt_tokens", "num_output_tokens", "error"]


@pytest.fixture(autouse=True)
def _left(local_ray: None) -> Iterator[None]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    assert_nothing_left()


def gangs(**config: Any) -> BatchPredictor:
    checkpoint = DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(**{"engine": "echo", **config}))
    return BatchPredictor.from_checkpoint(
        checkpoint, DeepSpeedPredictor, scaling_config=TWO_GPUS, gang_config=GangConfig(lease_ttl_s=3)
    )


def test_ours_is_rays() -> None:
    assert issubclass(Predictor, legacy.Predictor)
    assert issubclass(PredictorNotSerializableException, legacy.PredictorNotSerializableException)
    checkpoint = DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(engine="echo"))
    with DeepSpeedPredictor.from_checkpoint(checkpoint, scaling_config=TWO_GPUS) as predictor:
        assert isinstance(predictor, legacy.Predictor)
        assert predictor._batch_format_to_use() == "pandas"
        assert list(predictor.predict(pd.DataFrame({"prompt": ["a", ""]}))["output"]) == ["a", ""]


class RaysDoubler(legacy.Predictor):  # type: ignore[misc, name-defined]
    """A predictor that was written for Ray's class and never heard of ours."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **kwargs: Any) -> RaysDoubler:
        return cls()

    def _predict_pandas(self, data: pd.DataFrame, **kwargs: Any) -> pd.DataFrame:
        return pd.DataFrame({"y": data["x"] * 2})


def test_rays_works_in_ours(tmp_path: Any) -> None:
    predictor = BatchPredictor.from_checkpoint(Checkpoint.from_directory(str(tmp_path)), RaysDoubler)
    data = ray.data.from_items([{"x": i, "id": i} for i in range(6)])
    rows = predictor.predict(data, feature_columns=["x"], keep_columns=["id"], max_scoring_workers=1).take_all()
    assert {row["id"]: row["y"] for row in rows} == {i: 2 * i for i in range(6)}


def test_gangs_behind_ray_data() -> None:
    data = ray.data.from_items([{"prompt": f"row {i}", "id": i} for i in range(30)], override_num_blocks=1)
    out = gangs().predict(data, keep_columns=["id"], batch_size=5, min_scoring_workers=2)
    assert {row["id"]: row["output"] for row in out.take_all()} == {i: f"row {i}" for i in range(30)}
    assert gangs().predict(data.limit(0), max_scoring_workers=1).schema().names == OUTPUT


def test_failures_arrive_with_their_type(caplog: pytest.LogCaptureFixture) -> None:
    data = ray.data.from_items([{"prompt": f"row {i}"} for i in range(8)])
    with pytest.raises(MissingColumnError):
        gangs().predict(data, keep_columns=["id"])
    killer = gangs(echo_fault={"prompt_contains": "row 5"})
    killed = killer.predict(data, keep_columns=["prompt"], max_scoring_workers=1).take_all()
    assert [row["error"][:5] for row in killed if row["output"] != row["prompt"]] == ["gang:"]
    faulty = gangs(echo_fault={"when": "load"}).predict(data, max_scoring_workers=1)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        faulty.materialize()
    caplog.clear()  # the log holds the error, and with it the execution's actors
    assert isinstance(unwrap(caught.value), WorkerGroupError)
