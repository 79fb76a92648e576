"""Values as bytes: equal for what means the same, different for all else, and nothing fails."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.rows.canonical import canonical_bytes

CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def meant(value: Any) -> Any:
    """What a value means, comparable by `==`: written without looking at how the module does it."""
    if isinstance(value, dict):
        fields = {name: meant(field) for name, field in value.items()}
        return ("mapping", {name: field for name, field in fields.items() if field != ("missing",)})
    if isinstance(value, list):
        return ("list", [meant(item) for item in value])
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ("missing",)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, int | float):
        return ("number", value)
    return (type(value).__name__, value)


@settings(deadline=None)
@given(CELLS, CELLS)
def test_bytes_are_equal_where_values_mean_the_same_and_only_there(one: Any, other: Any) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) == (meant(one) == meant(other))


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_lists_of_texts_do_not_run_together(one: list[str], other: list[str]) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) == (one == other)


@pytest.mark.parametrize("missing", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")])
def test_what_is_missing_is_one_value(missing: object) -> None:
    assert canonical_bytes(missing) == canonical_bytes(None)
    assert canonical_bytes({"a": 1, "b": missing}) == canonical_bytes({"a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (50, 50.0),
        (50, np.int8(50)),
        (0.5, np.float32(0.5)),
        (True, np.True_),
        ("text", np.str_("text")),
        ([1, 2], (1, 2)),
        ([1, 2], np.array([1.0, 2.0])),
        (0, -0.0),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_the_same_in_other_types(one: object, other: object) -> None:
    assert canonical_bytes(one) == canonical_bytes(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, "1"),
        ("", None),
        ("a", b"a"),
        ([], {}),
        ([[]], []),
        ([None], []),
        ("\u00e9", "e\u0301"),
        ("\ud800", "\ud801"),
        (2**64, float(2**64) * 2),
        (decimal.Decimal("1.5"), 1.5),
        (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)),
    ],
)
def test_different_values(one: object, other: object) -> None:
    assert canonical_bytes(one) != canonical_bytes(other)


class Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_what_cannot_be_written_down_is_equal_to_nothing() -> None:
    itself: list[object] = []
    itself.append(itself)
    deep: object = 0
    for _ in range(5000):
        deep = [deep]
    for value in (itself, deep, Raises(), decimal.Decimal("sNaN"), {"a": Raises()}):
        assert len(canonical_bytes(value)) > 0
    assert canonical_bytes(Raises()) != canonical_bytes(Raises())
    assert canonical_bytes(itself) != canonical_bytes(itself)


def test_numbers_of_any_size() -> None:
    assert canonical_bytes(10**6000) != canonical_bytes(10**6000 + 1)
    assert len({canonical_bytes(x) for x in (math.inf, -math.inf, 5e-324, 1.7e308)}) == 4
