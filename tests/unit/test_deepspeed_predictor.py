"""DeepSpeedPredictor on a gang in this process: rows of several calls share a continuous engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from raydsinfer.config import GenerationConfig, RecoveryConfig
from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.errors import InvalidSettingError, RestartsExhaustedError, RowFailedError, UnsupportedError
from raydsinfer.rows.keys import row_key, run_identity
from raydsinfer.rows.request import Row
from raydsinfer.serving.service import ContinuousService
from tests.gangs import InProcessSupervisor

KILLS = {"rank": 1, "prompt_contains": "poison"}


def predictor(num_ranks: int = 2, *, max_restarts: int = 8, on_error: str = "row", **config: Any) -> DeepSpeedPredictor:
    supervisor = InProcessSupervisor(num_ranks, max_restarts=max_restarts, **({"max_tokens": 64} | config))
    return DeepSpeedPredictor(
        supervisor,  # type: ignore[arg-type]
        ByteTokenizer(),
        supervisor.group.spec,
        recovery_config=RecoveryConfig(on_error=on_error),
    )


def table(*prompts: str, **columns: list[Any]) -> pa.Table:
    return pa.table({"prompt": list(prompts), **columns})


def test_calls_of_several_threads_keep_their_rows_and_their_order() -> None:
    shared = predictor(max_running=5, max_tokens=100)
    calls = [[f"{'x' * ((7 * row) % 30)} {call}" for row in range(30)] for call in range(6)]
    with shared, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda prompts: shared.predict(table(*prompts))["output"].to_pylist(), calls))
        assert found == calls
        service = shared.service.present
        assert isinstance(service, ContinuousService)
        steps = service.feeder.counts.num_steps
    tokens = sum(len(prompt) for call in calls for prompt in call)
    assert tokens / 5 <= steps < tokens / 5 * 1.5
    assert "feeder" not in {thread.name for thread in threading.enumerate()}


def test_each_row_goes_with_settings_of_its_own() -> None:
    own = [None, '{"max_new_tokens": 2}', '{"num_beams": 2}', '{"return_logprobs": true}', '{"max_new_tokens": 60}']
    out = predictor(kv_cache_bytes=60).predict(table(*["abcd"] * 5, generation=own), max_new_tokens=40).to_pydict()
    assert out["output"] == ["abcd", "ab", "abcd", "", ""]
    assert out["finish_reason"] == ["stop", "length", "stop", "error", "error"]
    assert [error.split(":")[0] for error in out["error"]] == ["", "", "", "generation", "engine"]
    assert "needs 64 tokens of the KV cache, which holds 60" in out["error"][4]


def test_log_probabilities_on_request() -> None:
    on_request = predictor()
    assert "logprobs" not in on_request.predict(table("ab")).column_names
    out = on_request.predict(table("ab", ""), return_logprobs=True)
    assert out["logprobs"].to_pylist() == [[0.0, 0.0], []]
    frame = on_request.predict(
        pd.DataFrame({"prompt": ["ab", ""]}), return_logprobs=True, num_return_sequences=2, do_sample=True
    )
    assert list(frame["logprobs"]) == [[[0.0, 0.0]] * 2, [[]]]


def test_a_static_gang_has_no_log_probabilities() -> None:
    with pytest.raises(UnsupportedError, match="batching='static'"):
        predictor(batching="auto").predict(table("ab"), return_logprobs=True)


def test_a_gang_that_may_not_be_restarted_fails_every_call_and_shutdown_ends_the_thread() -> None:
    faulty = predictor(echo_fault=KILLS, max_restarts=0)
    with faulty, ThreadPoolExecutor(4) as pool:
        prompts = [["fine", "poison"], *[["fine"] * 3] * 3]
        futures = [pool.submit(faulty.predict, table(*p)) for p in prompts]
        errors = [future.exception(30) for future in futures]
        assert isinstance(errors[0], RestartsExhaustedError)
        with pytest.raises(RestartsExhaustedError):
            faulty.predict(table("late"))
    assert all(error is None or isinstance(error, RestartsExhaustedError) for error in errors)


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_a_row_that_kills_is_a_row_with_an_error(batching: str) -> None:
    faulty = predictor(echo_fault=KILLS, batching=batching)
    out = faulty.predict(table("fine", "poison", "", "fine too"), report_attempts=True)
    assert out.column_names[-1] == "num_attempts"
    assert out["output"].to_pylist() == ["fine", "", "", "fine too"]
    assert out["finish_reason"].to_pylist() == ["stop", "error", "error", "stop"]
    assert [error.split(":")[0] for error in out["error"].to_pylist()] == ["", "gang", "prompt", ""]
    attempts = out["num_attempts"].to_pylist()
    assert attempts[2] == 0
    assert attempts[1] == faulty.num_restarts <= 5  # two with all three, and the halving of three
    assert "num_attempts" not in faulty.predict(table("fine")).column_names
    frame = faulty.predict(pd.DataFrame({"prompt": ["fine"]}), report_attempts=True)
    assert frame["num_attempts"].tolist() == [1]


def test_kept_columns_must_not_overwrite_the_attempts() -> None:
    counted = table("a", num_attempts=[7])
    assert predictor().predict(counted, keep_columns=["num_attempts"])["num_attempts"].to_pylist() == [7]
    with pytest.raises(InvalidSettingError, match="Rename 'num_attempts' first"):
        predictor().predict(counted, keep_columns=["num_attempts"], report_attempts=True)


@pytest.mark.parametrize("prompt", ["poison", ""])
def test_the_first_bad_row_ends_the_call_with_its_key(prompt: str) -> None:
    strict = predictor(echo_fault=KILLS, on_error="raise")
    with pytest.raises(RowFailedError) as caught:
        strict.predict(table("fine", prompt), max_new_tokens=7)
    identity = run_identity(strict._spec, use_gpu=False)
    assert caught.value.key == row_key(Row(prompt=prompt), GenerationConfig(max_new_tokens=7), identity).hex()
    assert f"({prompt!r} (str)) failed: {'gang: ' if prompt else 'prompt: '}" in str(caught.value)
    # One bad row does not end the gang, and a call has the last word.
    assert strict.predict(table("fine", prompt), on_error="row")["output"].to_pylist() == ["fine", ""]
    with pytest.raises(RowFailedError):
        predictor(echo_fault=KILLS).predict(table(prompt), on_error="raise")
    with pytest.raises(InvalidSettingError, match="on_error='stop'"):
        strict.predict(table("fine"), on_error="stop")
