"""A batch of rows in its three guises: pandas, numpy, Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from raydsinfer.errors import InvalidSettingError

# Ray's own name for the only column of a data set of arrays.
ARRAY_COLUMN = "__value__"


def format_of(batch: Any) -> str:
    """``pandas``, ``numpy`` or ``arrow``.

    Raises:
        InvalidSettingError: It is none of them.
    """
    if isinstance(batch, pd.DataFrame):
        return "pandas"
    if isinstance(batch, pa.Table):
        return "arrow"
    if isinstance(batch, np.ndarray):
        _check_plain("data", batch)
        return "numpy"
    wanted = "a pandas DataFrame, an ndarray or a dictionary of ndarrays"
    if not isinstance(batch, dict):
        raise InvalidSettingError(name="data", value=type(batch), expected=wanted)
    for name, column in batch.items():
        if not isinstance(column, np.ndarray):
            raise InvalidSettingError(
                name=f"data[{name!r}]",
                value=type(column),
                expected="an ndarray",
                hint="Use numpy.array(..., dtype=object).",
            )
        _check_plain(f"data[{name!r}]", column)
    lengths = {name: column.shape[:1] for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name!r}: {length[0] if length else 'none'}" for name, length in lengths.items())
        raise InvalidSettingError(name="data", value=sizes, expected="arrays with the same number of rows")
    return "numpy"


def _check_plain(name: str, array: Any) -> None:
    if array.dtype.names is not None:
        hint = "Pass a dictionary of its fields, {name: array[name] for name in array.dtype.names}."
        raise InvalidSettingError(name=name, value=array.dtype, expected="an array without fields", hint=hint)


class UnreadableCell:
    """Stands for a cell whose bytes are not what its column's type says; prompts and settings it is none."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return f"<not readable: {self._why}>"


def cells(column: pa.ChunkedArray) -> list[Any]:
    """An Arrow column as Python values; a cell that cannot be one takes no other with it.

    Args:
        column: Of any type; text that is no UTF-8, or a date that no calendar has, becomes an `UnreadableCell`.
    """
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, ArithmeticError):
        return [_cell(cell) for cell in column]


def _cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError, ArithmeticError) as error:
        return UnreadableCell(f"{type(error).__name__}: {error}")


def convert(batch: Any, wanted: str, *, arrays: bool = False, tensors: bool = False) -> Any:
    """The same rows in another format.

    Args:
        batch: A DataFrame, an Arrow table, an ndarray or a dictionary of ndarrays.
        wanted: ``pandas``, ``numpy`` or ``arrow``.
        arrays: Turn Ray's tensor columns of a DataFrame into columns of ndarrays.
        tensors: Turn columns of ndarrays of a DataFrame into Ray's tensor columns.
    """
    if wanted == "numpy":
        return _to_numpy(batch)
    if wanted == "arrow":
        return batch if isinstance(batch, pa.Table) else _to_arrow(batch)
    frame = _to_pandas(batch)
    if arrays:
        frame = _tensors_to_arrays(frame)
    return _arrays_to_tensors(frame) if tensors else frame


def _to_pandas(batch: Any) -> Any:
    if isinstance(batch, pd.DataFrame):
        return batch
    if isinstance(batch, pa.Table):
        return batch.to_pandas()
    columns = {ARRAY_COLUMN: batch} if isinstance(batch, np.ndarray) else batch
    # An array of more than one dimension is a column of arrays.
    return pd.DataFrame({name: list(a) if a.ndim > 1 else pd.Series(a) for name, a in columns.items()})


def _to_numpy(batch: Any) -> Any:
    if isinstance(batch, np.ndarray | dict):
        return batch
    frame = _to_pandas(batch)
    arrays = {name: frame[name].to_numpy() for name in frame.columns}
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _to_arrow(batch: Any) -> Any:
    from ray.data.block import BlockAccessor

    return BlockAccessor.for_block(_to_pandas(batch)).to_arrow()


def _tensors_to_arrays(frame: pd.DataFrame) -> pd.DataFrame:
    from ray.data.extensions import TensorDtype

    names = [name for name, dtype in frame.dtypes.items() if isinstance(dtype, TensorDtype)]
    return frame.assign(**{str(name): list(frame[name].to_numpy()) for name in names}) if names else frame


def _arrays_to_tensors(frame: pd.DataFrame) -> pd.DataFrame:
    from ray.data.extensions import TensorArray, column_needs_tensor_extension

    names = [
        name for name in frame.columns if frame[name].dtype == object and column_needs_tensor_extension(frame[name])
    ]
    return frame.assign(**{str(name): TensorArray(frame[name]) for name in names}) if names else frame
