"""DeepSpeedPredictor on a gang in this process: rows of several calls share a continuous engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.errors import UnsupportedError, WorkerGroupError
from raydsinfer.serving.service import ContinuousService
from tests.gangs import InProcessGang


def predictor(num_ranks: int = 2, **config: Any) -> DeepSpeedPredictor:
    gang = InProcessGang(num_ranks, **({"max_tokens": 64} | config))
    return DeepSpeedPredictor(gang, ByteTokenizer(), gang.config)  # type: ignore[arg-type]


def table(*prompts: str, **columns: list[Any]) -> pa.Table:
    return pa.table({"prompt": list(prompts), **columns})


def test_calls_of_several_threads_keep_their_rows_and_their_order() -> None:
    shared = predictor(max_running=5, max_tokens=100)
    calls = [[f"{'x' * ((7 * row) % 30)} {call}" for row in range(30)] for call in range(6)]
    with shared, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda prompts: shared.predict(table(*prompts))["output"].to_pylist(), calls))
        assert found == calls
        assert isinstance(shared.service, ContinuousService)
        steps = shared.service.feeder.counts.num_steps
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


def test_a_failure_reaches_every_call_and_shutdown_ends_the_thread() -> None:
    faulty = predictor(echo_fault={"rank": 1, "prompt_contains": "poison"})
    with faulty, ThreadPoolExecutor(4) as pool:
        prompts = [["fine", "poison"], *[["fine"] * 3] * 3]
        futures = [pool.submit(faulty.predict, table(*p)) for p in prompts]
        errors = [future.exception(30) for future in futures]
        assert isinstance(errors[0], WorkerGroupError)
        with pytest.raises(WorkerGroupError):
            faulty.predict(table("late"))
    assert all(error is None or isinstance(error, WorkerGroupError) for error in errors)
