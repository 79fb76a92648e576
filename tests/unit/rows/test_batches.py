"""Batches: the same rows in each of the three formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raydsinfer.errors import InvalidSettingError
from raydsinfer.rows.batches import ARRAY_COLUMN, convert, format_of

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", None]})


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (FRAME, "pandas"),
        (pa.table({"a": [1]}), "arrow"),
        (np.array([1]), "numpy"),
        ({"a": np.array([1])}, "numpy"),
    ],
)
def test_formats(batch: Any, name: str) -> None:
    assert format_of(batch) == name


@pytest.mark.parametrize("batch", [["a"], "a", None, {"a": [1]}, pd.Series([1])])
def test_other_types_are_refused(batch: Any) -> None:
    with pytest.raises(InvalidSettingError, match="expected a"):
        format_of(batch)


def test_there_and_back() -> None:
    arrays = convert(FRAME, "numpy")
    assert list(arrays) == ["a", "b"]
    pd.testing.assert_frame_equal(convert(arrays, "pandas"), FRAME, check_dtype=False)
    table = convert(FRAME, "arrow")
    assert table.to_pydict() == {"a": [1, 2], "b": ["x", None]}
    pd.testing.assert_frame_equal(convert(table, "pandas"), FRAME, check_dtype=False)
    assert convert(table, "arrow") is table


def test_one_column_is_one_array() -> None:
    assert convert(pd.DataFrame({"a": [1, 2]}), "numpy").tolist() == [1, 2]
    assert convert(np.array([1, 2]), "pandas")[ARRAY_COLUMN].tolist() == [1, 2]


def test_arrays_of_more_dimensions_are_columns_of_arrays() -> None:
    frame = convert({"image": np.arange(8).reshape(2, 2, 2)}, "pandas")
    assert frame["image"][1].tolist() == [[4, 5], [6, 7]]


def test_tensor_columns_become_arrays_and_come_back() -> None:
    from ray.data.extensions import TensorArray, TensorDtype

    frame = pd.DataFrame({"id": [1, 2], "image": TensorArray(np.arange(8).reshape(2, 2, 2))})
    plain = convert(frame, "pandas", arrays=True)
    assert isinstance(plain["image"][0], np.ndarray)
    assert isinstance(frame["image"].dtype, TensorDtype), "the caller's frame was changed"
    again = convert(plain, "pandas", tensors=True)
    assert isinstance(again["image"].dtype, TensorDtype)
    assert again["id"].tolist() == [1, 2]
