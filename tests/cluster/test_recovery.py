"""DeepSpeedPredictor on gangs that die: every good row is answered, every row that kills is named, nothing is left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
from ray.train import ScalingConfig

from raydsinfer import DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
from raydsinfer.config import RecoveryConfig

pytestmark = pytest.mark.usefixtures("nothing_left")

ONE = ScalingConfig(num_workers=1, use_gpu=True, resources_per_worker={"CPU": 0.5, "GPU": 1})
TWO = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 0.5, "GPU": 1})


def started(
    scaling_config: ScalingConfig,
    gang_config: GangConfig,
    fault: dict[str, Any],
    max_row_deaths: int = 2,
    **config: Any,
) -> DeepSpeedPredictor:
    engine = EngineConfig(engine="echo", max_tokens=64, echo_fault=fault, **config)
    return DeepSpeedPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained("none", engine),
        scaling_config=scaling_config,
        gang_config=gang_config,
        recovery_config=RecoveryConfig(max_row_deaths=max_row_deaths, restart_backoff_s=0.1),
        max_new_tokens=30,
    )


def rows(num: int, *killers: int) -> pd.DataFrame:
    return pd.DataFrame({"prompt": [f"poison {row}" if row in killers else f"row {row}" for row in range(num)]})


def assert_right(data: pd.DataFrame, out: pd.DataFrame, kind: str) -> None:
    for prompt, output, error, reason in zip(
        data["prompt"], out["output"], out["error"], out["finish_reason"], strict=True
    ):
        if "poison" in prompt:
            assert (output, error.split(":")[0], reason) == ("", kind, "error")
        else:
            assert (output, error, reason) == (prompt, "", "stop")


def test_one_killer_and_two_callers(quick: GangConfig) -> None:
    fault = {"rank": 1, "prompt_contains": "poison", "action": "kill"}
    calls = [rows(32, 20), rows(32)]
    with started(TWO, quick, fault, batching="continuous") as predictor, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(predictor.predict, calls))
        for data, out in zip(calls, found, strict=True):
            assert_right(data, out, "gang")
        assert "the gang died 2 times while it worked on this row alone; rank 1: RankDiedError" in found[0]["error"][20]
        assert 4 <= predictor.num_restarts <= 9  # log2(64) + 3
        assert predictor._supervisor._restarts.num_left == 8  # none of them counts


def test_three_killers_in_a_batch(quick: GangConfig) -> None:
    data = rows(7, 1, 2, 5)
    with started(ONE, quick, {"prompt_contains": "poison", "action": "exit"}, max_row_deaths=1) as predictor:
        assert_right(data, predictor.predict(data), "gang")
        assert predictor.num_restarts <= 2 + 3 * 3


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_out_of_memory_makes_batches_smaller(quick: GangConfig, batching: str) -> None:
    fault = {"rank": None, "action": "oom", "oom_rows": 3}
    data = rows(20)
    with started(TWO, quick, fault, batching=batching, max_batch_size=16, max_running=16) as predictor:
        assert_right(data, predictor.predict(data), "")
        attempts = predictor.predict(data, report_attempts=True)["num_attempts"]
        assert set(attempts) == {1}  # what was learnt is kept
        assert predictor.num_restarts == 0


def test_a_row_that_hangs(quick: GangConfig) -> None:
    fault = {"rank": 1, "prompt_contains": "poison", "action": "hang"}
    impatient = quick.replaced({"first_step_timeout_s": 2.0, "step_timeout_s": 2.0})
    with started(TWO, impatient, fault, max_row_deaths=1) as predictor:
        assert_right(rows(2), predictor.predict(rows(2)), "")
        out = predictor.predict(rows(1, 0))
        assert_right(rows(1, 0), out, "gang")
        assert "RankTimeoutError" in out["error"][0]
        assert predictor.num_restarts == 1
