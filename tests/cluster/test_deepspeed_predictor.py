"""DeepSpeedPredictor alone, with the echo engine: N rows in, N rows out, and nothing left."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.data.preprocessors import Concatenator
from ray.train import ScalingConfig

from raydsinfer import DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
from raydsinfer.config import RecoveryConfig
from raydsinfer.errors import (
    ClusterCapacityError,
    EngineError,
    InvalidSettingError,
    MissingColumnError,
    RestartsExhaustedError,
    UnknownSettingError,
    WorkerGroupError,
)
from raydsinfer.predictor import PredictorNotSerializableException
from tests.clusters import assert_nothing_left

TWO_GPUS = ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 0.5, "GPU": 1})
OUTPUT = ["output", "finish_reason", "num_prompt_tokens", "num_output_tokens", "error"]


def checkpoint(**config: Any) -> DeepSpeedCheckpoint:
    return DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(**{"engine": "echo", "max_tokens": 64} | config))


# First those that check that nothing is left, before a gang is started for the rest of the module.


def test_other_columns_and_defaults(nothing_left: None) -> None:
    told: list[str] = []
    started = DeepSpeedPredictor.from_checkpoint(
        checkpoint(), prompt_column="text", generation_column="how", max_new_tokens=2, on_progress=told.append
    )
    with started as predictor:
        frame = pd.DataFrame({"text": ["abcdef", "abcdef"], "how": [None, {"max_new_tokens": 3}], "generation": "?"})
        assert list(predictor.predict(frame)["output"]) == ["ab", "abc"]
        assert list(predictor.predict(frame, feature_columns=["text"], max_new_tokens=4)["output"]) == ["abcd"] * 2
    assert told
    predictor.shutdown()


def test_a_gang_that_may_not_be_restarted_is_no_bad_row(nothing_left: None, quick: GangConfig) -> None:
    faulty = checkpoint(echo_fault={"rank": 1, "prompt_contains": "poison"})
    never = RecoveryConfig(max_restarts=0)
    started = DeepSpeedPredictor.from_checkpoint(
        faulty, scaling_config=TWO_GPUS, gang_config=quick, recovery_config=never
    )
    with started as predictor:
        assert list(predictor.predict(pd.DataFrame({"prompt": ["fine"]}))["output"]) == ["fine"]
        with pytest.raises(RestartsExhaustedError, match="told to fail on rank 1"):
            predictor.predict(pd.DataFrame({"prompt": ["fine", "poison"]}))


def test_a_gang_that_does_not_start(nothing_left: None, quick: GangConfig) -> None:
    with pytest.raises(WorkerGroupError) as caught:
        DeepSpeedPredictor.from_checkpoint(checkpoint(echo_fault={"when": "load"}), gang_config=quick)
    assert isinstance(caught.value.causes[0], EngineError)
    many = ScalingConfig(num_workers=9, use_gpu=True)
    with pytest.raises(ClusterCapacityError, match="would hold 4"):
        DeepSpeedPredictor.from_checkpoint(
            checkpoint(), scaling_config=many, gang_config=quick.replaced({"placement_timeout_s": 1})
        )
    with pytest.raises(UnknownSettingError, match="scaling_konfig"):
        DeepSpeedPredictor.from_checkpoint(checkpoint(), scaling_konfig=many)


@pytest.fixture(scope="module")
def predictor(local_ray: None) -> Iterator[DeepSpeedPredictor]:
    with DeepSpeedPredictor.from_checkpoint(checkpoint(max_batch_size=3), scaling_config=TWO_GPUS) as started:
        yield started
    assert_nothing_left()


def test_bad_rows_do_not_take_good_ones_with_them(predictor: DeepSpeedPredictor) -> None:
    rows = [
        ("good", None),
        ("", None),
        (None, None),
        (7, None),
        (float("nan"), None),
        ("x" * 60, None),
        ("short please", {"max_new_tokens": 5, "temperature": None}),
        ("bad setting", {"max_new_tokns": 5}),
        ("good as well", '{"max_new_tokens": 20}'),
    ]
    frame = pd.DataFrame({"prompt": [r[0] for r in rows], "generation": [r[1] for r in rows], "id": range(9)})
    out = predictor.predict(frame.set_index(frame["id"] + 100), keep_columns=["id"], max_new_tokens=30)
    assert list(out.columns) == [*OUTPUT, "id"]
    assert list(out["id"]) == list(range(9))
    assert list(out.index) == list(range(100, 109))
    assert list(out["output"]) == ["good", "", "", "", "", "", "short", "", "good as well"]
    kinds = [error.split(":")[0] for error in out["error"]]
    assert kinds == ["", "prompt", "prompt", "prompt", "prompt", "length", "", "generation", ""]
    assert list(out["finish_reason"]) == ["stop", *["error"] * 5, "length", "error", "stop"]
    assert list(out["num_prompt_tokens"]) == [4, 0, 0, 0, 0, 60, 12, 0, 12]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=70)), max_size=12),
    max_new_tokens=st.integers(1, 40),
)
def test_any_rows_come_back_in_order(predictor: DeepSpeedPredictor, prompts: list[object], max_new_tokens: int) -> None:
    batch = {"prompt": np.array(prompts, dtype=object), "id": np.arange(len(prompts))}
    out = predictor.predict(batch, keep_columns=["id"], max_new_tokens=max_new_tokens)
    assert out["id"].tolist() == list(range(len(prompts)))
    for prompt, output, error in zip(prompts, out["output"], out["error"], strict=True):
        if error:
            bad_text = isinstance(prompt, str) and (not prompt or len(prompt.encode()) > 64 - max_new_tokens)
            assert bad_text or not isinstance(prompt, str)
        else:
            assert isinstance(prompt, str)
            assert output == prompt.encode()[:max_new_tokens].decode(errors="replace")


def test_the_type_that_goes_in_comes_out(predictor: DeepSpeedPredictor) -> None:
    frame = predictor.predict(pd.DataFrame({"prompt": ["a", "b"]}))
    assert isinstance(frame, pd.DataFrame)
    table = predictor.predict(pa.table({"prompt": ["a", "b"], "n": [1, 2]}), keep_columns=["n"])
    assert table.to_pydict()["n"] == [1, 2]
    assert table.schema.field("num_output_tokens").type == pa.int64()
    for arrays in (predictor.predict(np.array(["a", "b"])), predictor.predict({"prompt": np.array(["a", "b"])})):
        assert {name: column.tolist() for name, column in arrays.items()} == frame.to_dict("list")


def test_no_rows(predictor: DeepSpeedPredictor) -> None:
    assert list(predictor.predict(pd.DataFrame({"prompt": []})).columns) == OUTPUT
    assert predictor.predict(pa.table({"prompt": pa.array([], pa.string())})).num_rows == 0


def test_settings_of_the_call(predictor: DeepSpeedPredictor) -> None:
    frame = pd.DataFrame({"prompt": ["one. two", "three"]})
    assert list(predictor.predict(frame, stop_strings=".")["output"]) == ["one", "three"]
    assert list(predictor.predict(frame, max_new_tokens=2, return_full_text=True)["output"]) == [
        "one. twoon",
        "threeth",
    ]
    twice = predictor.predict(frame, num_return_sequences=2, do_sample=True)
    assert list(twice["output"]) == [["one. two"] * 2, ["three"] * 2]
    assert list(twice["num_output_tokens"]) == [[8, 8], [5, 5]]


def test_conversations(predictor: DeepSpeedPredictor) -> None:
    frame = pd.DataFrame({"messages": [[{"role": "user", "content": "hi"}], "no", None]})
    out = predictor.predict(frame, max_new_tokens=40)
    assert out["output"][0] == "user: hi\nassistant: "
    assert [error.split(":")[0] for error in out["error"]] == ["", "messages", "prompt"]


def test_the_preprocessor_comes_before_the_columns(predictor: DeepSpeedPredictor) -> None:
    class Rename(Concatenator):  # any preprocessor: this one needs no fitting
        def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
            return df.rename(columns={"question": "prompt"})

    predictor.set_preprocessor(Rename(columns=["question"]))
    try:
        out = predictor.predict(pd.DataFrame({"question": ["a"]}), feature_columns=["prompt"])
    finally:
        predictor.set_preprocessor(None)
    assert list(out["output"]) == ["a"]


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"max_new_tokns": 3}, UnknownSettingError, "Did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 64}, InvalidSettingError, "EngineConfig.max_tokens=64"),
        ({"num_return_sequences": 4, "do_sample": True}, InvalidSettingError, "max_batch_size=3"),
        ({"keep_columns": ["x"]}, MissingColumnError, "'x', but the data has: 'prompt'"),
        ({"feature_columns": ["x"]}, MissingColumnError, "feature_columns names column 'x'"),
    ],
)
def test_mistakes_of_the_call(
    predictor: DeepSpeedPredictor, kwargs: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        predictor.predict(pd.DataFrame({"prompt": ["a"]}), **kwargs)


def test_a_short_repr_and_no_pickle(predictor: DeepSpeedPredictor) -> None:
    assert repr(predictor) == f"DeepSpeedPredictor('none', 2 ranks, {predictor.group.name})"
    with pytest.raises(PredictorNotSerializableException, match="loaded model"):
        pickle.dumps(predictor)
