"""Errors of ours inside what Ray makes of them."""

from __future__ import annotations

import pickle

import pytest
from ray.data import DataContext
from ray.exceptions import RayTaskError, UserCodeException

from raydsinfer.errors import EngineError, MissingColumnError, WorkerGroupError
from raydsinfer.unwrap import ScoringError, raised_in_one_piece, unwrap

MISSING = MissingColumnError(missing=["a"], available=["b"], wanted_by="keep_columns")


def test_an_error_of_ours_is_found_inside_rays() -> None:
    scoring = pickle.loads(pickle.dumps(ScoringError(MISSING)))  # noqa: S301  (our own bytes)
    assert isinstance(scoring, UserCodeException)
    assert "keep_columns names column 'a'" in str(scoring)
    task_error = RayTaskError("f", "Traceback …", scoring).as_instanceof_cause()
    found = unwrap(task_error)
    assert isinstance(found, MissingColumnError)
    assert found.missing == ["a"]


def test_an_error_stays_whole() -> None:
    error = WorkerGroupError(gang="g", phase="load", causes={0: EngineError(doing="x", reason="y")})
    assert unwrap(error) is error
    assert unwrap(RuntimeError("not ours")).args == ("not ours",)
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert unwrap(outer) is error


def test_circles_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert unwrap(first) is first


def test_only_our_errors_are_kept_from_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    context = DataContext()
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    with pytest.raises(ValueError, match="theirs"), raised_in_one_piece():
        raise ValueError("theirs")
    assert not context.raise_original_map_exception
    with pytest.raises(ScoringError, match="MissingColumnError") as caught, raised_in_one_piece():
        raise MISSING
    assert caught.value.cause is MISSING
    assert context.raise_original_map_exception
