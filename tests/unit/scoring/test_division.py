"""Which rows are computed, and that every row gets the answer that is its own."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.scoring.division import divide, merged

SCHEMA = pa.schema({"output": pa.string()})


def answers(*texts: str) -> pa.Table:
    # Another order of columns, and one more: what another version may have stored.
    return pa.table({"more": [0] * len(texts), "output": list(texts)})


def test_stored_and_new_rows_come_out_in_the_batches_order() -> None:
    division = divide([b"a", b"b", b"c", b"a"], [None, "at b", None, None])
    assert (division.places, division.new) == (("at b",), (0, 2))
    table = merged(division, answers("B"), answers("A", "C"), SCHEMA)
    assert table.column("output").to_pylist() == ["A", "B", "C", "A"]
    assert division.stored == [False, True, False, False]


def test_only_new_rows_if_those_are_wanted() -> None:
    division = divide([b"a", b"b", b"b"], ["at a", None, None], yield_stored=False)
    assert (division.rows, division.new) == ((1, 2), (1,))
    assert merged(division, None, answers("B"), SCHEMA).column("output").to_pylist() == ["B", "B"]


def test_no_rows_have_the_schema() -> None:
    assert merged(divide([], []), None, None, SCHEMA).schema == SCHEMA
    nothing = divide([b"a"], ["at a"], yield_stored=False)
    assert nothing.places == ()
    assert merged(nothing, None, None, SCHEMA).num_rows == 0


@given(keys=st.lists(st.integers(0, 9)), there=st.sets(st.integers(0, 9)), yield_stored=st.booleans())
def test_every_row_gets_the_answer_of_its_key(keys: list[int], there: set[int], yield_stored: bool) -> None:
    names = [bytes([key]) for key in keys]
    division = divide(names, [key if key in there else None for key in keys], yield_stored=yield_stored)
    assert len(division.new) == len({key for key in keys if key not in there})
    stored = answers(*(str(place) for place in division.places)) if division.places else None
    new = answers(*(str(keys[position]) for position in division.new)) if division.new else None
    out = merged(division, stored, new, SCHEMA).column("output").to_pylist()
    assert out == [str(keys[position]) for position in division.rows]
    assert out == [str(key) for key in keys if yield_stored or key not in there]
