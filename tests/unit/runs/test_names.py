"""Names that are made, recognised and told old from new."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.runs.names import ids_in, is_old, is_temporary, new_id, temporary_name


def test_ids_are_different_and_in_the_order_of_time() -> None:
    made = [new_id() for _ in range(200)]
    assert len(set(made)) == 200
    assert ids_in(reversed(made)) == sorted(made)
    assert [name[:22] for name in made] == sorted(name[:22] for name in made)


@settings(deadline=None)
@given(st.text())
def test_what_is_named_otherwise_is_not_ours(name: str) -> None:
    assert ids_in([name, f"{name}.json"]) == ids_in([f"{name}.json"], ".json") == []
    assert not is_old(name)


def test_a_file_ends_as_asked() -> None:
    name = new_id()
    assert ids_in([f"{name}.json", f"{name}.end", name], ".json") == [name]
    assert ids_in([f"../{name}.json", f"{name}.json.json", f"{name}\n.json"], ".json") == []


def test_what_is_a_day_old_is_nobodys_work() -> None:
    name, now = new_id(), datetime.now(timezone.utc)
    for file in (name, f"{name}.parquet", temporary_name(f"{name}.parquet")):
        assert not is_old(file, now + timedelta(hours=23))
        assert is_old(file, now + timedelta(hours=25))
    assert is_temporary(temporary_name(name))
    assert not is_temporary(name)
