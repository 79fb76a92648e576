"""The predictor contract, without a cluster."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ray.data.preprocessors import Concatenator

from raydsinfer.errors import InvalidSettingError, UnsupportedError
from raydsinfer.predictor import Predictor, PredictorNotSerializableException


class Doubles(Predictor):
    """Doubles column ``x``; the keyword argument says by how much instead."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **kwargs: Any) -> Doubles:
        return cls()

    def _predict_pandas(self, data: pd.DataFrame, factor: int = 2) -> pd.DataFrame:
        return pd.DataFrame({"y": data["x"] * factor, "format": "pandas"})


class DoublesArrays(Doubles):
    def _predict_numpy(self, data: Any, factor: int = 2) -> Any:
        return {"y": data["x"] * factor, "format": np.array(["numpy"] * len(data["x"]))}


class PrefersArrays(DoublesArrays):
    @classmethod
    def preferred_batch_format(cls) -> str:
        return "numpy"


FRAME = pd.DataFrame({"x": [1, 2], "z": [0, 0]})
ARRAYS = {"x": np.array([1, 2]), "z": np.array([0, 0])}


@pytest.mark.parametrize(("cls", "used"), [(Doubles, "pandas"), (DoublesArrays, "pandas"), (PrefersArrays, "numpy")])
def test_the_type_that_goes_in_comes_out(cls: type[Predictor], used: str) -> None:
    predictor = cls.from_checkpoint(None)
    frame = predictor.predict(FRAME)
    assert isinstance(frame, pd.DataFrame)
    assert frame.to_dict("list") == {"y": [2, 4], "format": [used, used]}
    arrays = predictor.predict(ARRAYS, factor=3)
    assert {name: column.tolist() for name, column in arrays.items()} == {"y": [3, 6], "format": [used, used]}


def test_one_array_in_one_array_out() -> None:
    predictor = Predictor.from_pandas_udf(lambda frame, add=1: frame + add)
    assert predictor.predict(np.array([1, 2]), add=10).tolist() == [11, 12]
    assert predictor.predict(FRAME).to_dict("list") == {"x": [2, 3], "z": [1, 1]}


def test_other_types_are_refused() -> None:
    with pytest.raises(InvalidSettingError, match="DataFrame, an ndarray or a dictionary"):
        Doubles().predict([1, 2])


def test_the_preprocessor_comes_first() -> None:
    predictor = Predictor.from_pandas_udf(lambda frame: pd.DataFrame({"names": [" ".join(frame.columns)]}))
    assert predictor.get_preprocessor() is None
    predictor.set_preprocessor(Concatenator(columns=["x", "z"], output_column_name="both"))
    assert predictor.predict(FRAME)["names"].tolist() == ["both"]
    predictor.set_preprocessor(None)
    assert predictor.predict(FRAME)["names"].tolist() == ["x z"]


def test_tensor_columns_are_cast_on_request() -> None:
    from ray.data.extensions import TensorArray, TensorDtype

    seen: list[object] = []

    def same(frame: pd.DataFrame) -> pd.DataFrame:
        seen.append(frame["image"].dtype)
        return frame

    predictor = Predictor.from_pandas_udf(same)
    predictor._set_cast_tensor_columns()
    out = predictor.predict(pd.DataFrame({"image": TensorArray(np.zeros((2, 2, 2)))}))
    assert seen == [object]
    assert isinstance(out["image"].dtype, TensorDtype)


def test_a_class_that_predicts_nothing_says_so() -> None:
    class Nothing(Predictor):
        @classmethod
        def from_checkpoint(cls, checkpoint: Any, **kwargs: Any) -> Nothing:
            return cls()

    with pytest.raises(UnsupportedError, match="neither _predict_pandas nor _predict_numpy"):
        Nothing().predict(FRAME)


def test_a_class_that_forgot_super_init_says_so() -> None:
    class Forgets(Doubles):
        def __init__(self) -> None:
            pass

    with pytest.raises(UnsupportedError, match=r"super\(\).__init__"):
        Forgets().predict(FRAME)


def test_from_checkpoint_is_to_be_defined() -> None:
    with pytest.raises(TypeError, match="from_checkpoint"):
        Predictor()  # type: ignore[abstract]


@pytest.mark.parametrize("dump", [pickle.dumps, copy.deepcopy])
def test_a_predictor_refuses_to_be_pickled_and_says_what_to_do(dump: Any) -> None:
    with pytest.raises(PredictorNotSerializableException, match="Send the checkpoint"):
        dump(Doubles())
    assert issubclass(PredictorNotSerializableException, RuntimeError)


def test_a_short_repr() -> None:
    assert repr(Doubles()) == "Doubles(preprocessor=None)"
