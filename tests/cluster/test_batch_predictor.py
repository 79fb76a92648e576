"""BatchPredictor with predictors that are not ours: Ray AIR's semantics on today's Ray Data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import ray.data
from ray.data.preprocessor import Preprocessor
from ray.train import Checkpoint

from raydsinfer import BatchPredictor, Predictor
from raydsinfer.errors import InvalidSettingError, MissingColumnError, UnsupportedError
from raydsinfer.unwrap import unwrap
from tests.clusters import assert_nothing_left


class Offset(Predictor):
    """Adds what the checkpoint's file says to column ``x``, and tells what it got."""

    def __init__(self, offset: int, use_gpu: bool) -> None:
        super().__init__()
        self.offset, self.use_gpu = offset, use_gpu

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, use_gpu: bool = False, extra: int = 0) -> Offset:
        with checkpoint.as_directory() as directory:
            return cls(int(Path(directory, "offset").read_text()) + extra, use_gpu)

    def _predict_pandas(self, data: pd.DataFrame, times: int = 1) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "y": (data["x"] + self.offset) * times,
                "columns": " ".join(data.columns),
                "rows": len(data),
                "pid": os.getpid(),
                "use_gpu": self.use_gpu,
            }
        )


class Arrays(Offset):
    """The same with arrays."""

    def _predict_numpy(self, data: Any, times: int = 1) -> Any:
        return {"y": (data["x"] + self.offset) * times, "kind": np.array(["numpy"] * len(data["x"]))}

    @classmethod
    def preferred_batch_format(cls) -> str:
        return "numpy"


def frame(data: ray.data.Dataset) -> pd.DataFrame:
    return pd.DataFrame(data.take_all())


@pytest.fixture(scope="module", autouse=True)
def nothing_left_of_module(local_ray: None) -> Iterator[None]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    assert_nothing_left()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "offset").write_text("100")
    return Checkpoint.from_directory(str(tmp_path))


@pytest.fixture
def rows() -> Callable[..., ray.data.Dataset]:
    return lambda: ray.data.from_items([{"x": i, "z": -i, "name": str(i)} for i in range(10)], override_num_blocks=2)


def test_anyones_predictor(checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset]) -> None:
    predictor = BatchPredictor.from_checkpoint(checkpoint, Offset, extra=1)
    assert repr(predictor).startswith("BatchPredictor(checkpoint=Checkpoint(")
    out = predictor.predict(
        rows(), feature_columns=["x"], keep_columns=["name", "z"], batch_size=5, max_scoring_workers=1, times=2
    )
    out = frame(out).sort_values("y")
    assert list(out["y"]) == [(i + 101) * 2 for i in range(10)]
    assert list(out["name"]) == [str(i) for i in range(10)]
    assert list(out["z"]) == [-i for i in range(10)]
    assert set(out["columns"]) == {"x"}
    assert set(out["rows"]) == {5}
    assert set(out["use_gpu"]) == {False}


def test_without_column_names_the_predictor_gets_all_and_the_output_is_its_own(
    checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset]
) -> None:
    out = frame(BatchPredictor.from_checkpoint(checkpoint, Offset).predict(rows(), max_scoring_workers=1))
    assert set(out["columns"]) == {"x z name"}
    assert list(out.columns) == ["y", "columns", "rows", "pid", "use_gpu"]


def test_predictors_of_arrays(checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset]) -> None:
    predictor = BatchPredictor.from_checkpoint(checkpoint, Arrays)
    out = frame(predictor.predict(rows(), feature_columns=["x"], keep_columns=["name"], max_scoring_workers=1))
    assert set(out["kind"]) == {"numpy"}
    assert dict(zip(out["name"], out["y"], strict=True)) == {str(i): i + 100 for i in range(10)}


def test_a_function(rows: Callable[..., ray.data.Dataset]) -> None:
    predictor = BatchPredictor.from_pandas_udf(lambda frame, add: frame[["x"]] + add)
    out = frame(predictor.predict(rows(), keep_columns=["name"], max_scoring_workers=1, add=5))
    assert dict(zip(out["name"], out["x"], strict=True)) == {str(i): i + 5 for i in range(10)}


@pytest.mark.parametrize("separate", [True, False])
def test_preprocessing_comes_first_and_off_the_gpu(
    checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset], separate: bool
) -> None:
    class Tells(Preprocessor):
        _is_fittable = False

        def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
            return df.assign(x=-df["x"], preprocess_pid=os.getpid())

    preprocessor = Tells()
    predictor = BatchPredictor.from_checkpoint(checkpoint, Offset)
    assert predictor.get_preprocessor() is None
    predictor.set_preprocessor(preprocessor)
    assert predictor.get_preprocessor() is preprocessor
    out = predictor.predict(
        rows(),
        feature_columns=["x", "preprocess_pid"],
        keep_columns=["preprocess_pid"],
        num_gpus_per_worker=1,
        max_scoring_workers=1,
        separate_gpu_stage=separate,
    )
    out = frame(out)
    assert set(out["columns"]) == {"x preprocess_pid"}
    assert sorted(out["y"]) == list(range(91, 101))
    assert set(out["use_gpu"]) == {True}
    assert (set(out["preprocess_pid"]) == set(out["pid"])) is not separate


def test_a_checkpoint_may_bring_its_preprocessor(tmp_path: Path) -> None:
    class WithPreprocessor(Checkpoint):  # type: ignore[misc]
        def get_preprocessor(self) -> str:
            return "the checkpoint's"

    predictor = BatchPredictor.from_checkpoint(WithPreprocessor.from_directory(str(tmp_path)), Offset)
    assert predictor.get_preprocessor() == "the checkpoint's"
    predictor.set_preprocessor("mine")  # type: ignore[arg-type]
    assert predictor.get_preprocessor() == "mine"


def test_missing_columns_are_told_at_once_if_known(
    checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset]
) -> None:
    predictor = BatchPredictor.from_checkpoint(checkpoint, Offset)
    with pytest.raises(MissingColumnError, match="keep_columns names column 'id', but the data has: 'x', 'z', 'name'"):
        predictor.predict(rows(), keep_columns=["id"])
    later = predictor.predict(rows().map(lambda row: row), feature_columns=["id"], max_scoring_workers=1)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        later.materialize()
    assert isinstance(unwrap(caught.value), MissingColumnError)


def test_actors_get_the_resources_that_were_asked_for(
    checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def record(self: Any, fn: Any, **kwargs: Any) -> Any:
        asked.append({name: kwargs.get(name) for name in ("num_cpus", "num_gpus", "batch_size", "resources")})
        return self

    monkeypatch.setattr(ray.data.Dataset, "map_batches", record)
    predictor = BatchPredictor.from_checkpoint(checkpoint, Offset)
    predictor.predict(rows())
    predictor.predict(rows(), num_gpus_per_worker=2, batch_size=7, ray_remote_args={"resources": {"a": 1}})
    predictor.predict(rows(), num_cpus_per_worker=3, num_gpus_per_worker=0)
    assert asked == [
        {"num_cpus": 1, "num_gpus": None, "batch_size": 4096, "resources": None},
        {"num_cpus": 0, "num_gpus": 2, "batch_size": 7, "resources": {"a": 1}},
        {"num_cpus": 3, "num_gpus": 0, "batch_size": 4096, "resources": None},
    ]


@pytest.mark.parametrize(
    "kwargs", [{"batch_size": 0}, {"min_scoring_workers": 0}, {"min_scoring_workers": 2, "max_scoring_workers": 1}]
)
def test_numbers_are_checked(checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset], kwargs: Any) -> None:
    with pytest.raises(InvalidSettingError, match=next(reversed(kwargs))):
        BatchPredictor.from_checkpoint(checkpoint, Offset).predict(rows(), **kwargs)


def test_other_data_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidSettingError, match=r"ray\.data\.Dataset"):
        BatchPredictor.from_checkpoint(checkpoint, Offset).predict(pd.DataFrame())  # type: ignore[arg-type]


def test_windows_are_gone(checkpoint: Checkpoint, rows: Callable[..., ray.data.Dataset]) -> None:
    with pytest.raises(UnsupportedError, match=r"Use predict\(\)"):
        BatchPredictor.from_checkpoint(checkpoint, Offset).predict_pipelined(rows(), blocks_per_window=1)
