"""A run that is kept in a directory: what the caller says of it, and what a row's key is made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import InvalidSettingError
from raydsinfer.rows.batches import cells
from raydsinfer.rows.columns import InputColumns, check_columns
from raydsinfer.rows.keys import RunIdentity, row_keys, run_identity
from raydsinfer.runs.index import RunIndex
from raydsinfer.runs.store import RunStore

STORED_COLUMN = "was_stored"
"""Whether the answer was in the run directory; there with `report_attempts`, after the number of attempts."""


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a caller says of a run that is kept.

    Args:
        run_dir: Directory or URL, or the store of one, in which no job has begun.
        resume: Whether it may hold rows already.
        num_rows: Rows of the data set, where that is known.
        retry_failed: Compute stored rows again that failed.
        duplicates: Whether equal rows are computed once, or each.
        key_column: What sets equal rows apart if each is computed.
        yield_stored: Whether rows come out that were stored before.

    Raises:
        InvalidSettingError: The settings do not go together.
    """

    run_dir: str | RunStore
    resume: bool = True
    num_rows: int | None = None
    retry_failed: bool = False
    duplicates: Literal["once", "each"] = "once"
    key_column: str | None = None
    yield_stored: bool = True

    def __post_init__(self) -> None:
        if self.num_rows is not None and (type(self.num_rows) is not int or self.num_rows < 0):
            raise InvalidSettingError(name="num_rows", value=self.num_rows, expected="a whole number, 0 or more")
        if self.duplicates not in ("once", "each"):
            raise InvalidSettingError(name="duplicates", value=self.duplicates, expected="'once' or 'each'")
        if self.duplicates == "each" and self.key_column is None:
            raise InvalidSettingError(
                name="key_column",
                value=None,
                expected="a column that differs where rows are equal, with duplicates='each'",
                hint="An id, or the row's number.",
            )
        if self.duplicates == "once" and self.key_column is not None:
            raise InvalidSettingError(
                name="key_column",
                value=self.key_column,
                expected="None with duplicates='once'",
                hint="A row's key needs no id; duplicates='each' tells equal rows apart.",
            )


def run_request(run_dir: str | os.PathLike[str] | RunStore | None, **settings: Any) -> RunRequest | None:
    """What a caller says of a run; None if none is to be kept.

    Args:
        run_dir: Directory or URL, or the store of one.
        **settings: The others of `RunRequest`.

    Raises:
        InvalidSettingError: The settings do not go together, or are of no use without a directory.
    """
    if not isinstance(run_dir, str | os.PathLike | RunStore | None):
        raise InvalidSettingError(name="run_dir", value=run_dir, expected="a directory or a URL")
    if run_dir is not None:
        return RunRequest(run_dir=run_dir if isinstance(run_dir, RunStore) else os.fspath(run_dir), **settings)
    nothing_said = RunRequest(run_dir="")
    for name, value in settings.items():
        if name not in ("num_rows", "resume") and value != getattr(nothing_said, name):
            hint = "It says what to do with the rows that are kept there."
            raise InvalidSettingError(name=name, value=value, expected="to stand with run_dir", hint=hint)
    return None


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run that is kept, with all that a row's key is made of. Small and plain, like `ScoringPlan`.

    Args:
        request: What the caller said.
        store: Where new rows go; a job has begun in it.
        index: The rows that were there before.
        identity: Of model and engine.
        generation: Settings of the call.
        input_columns: Columns that are read.
        feature_columns: Columns that may be read; None means all.
    """

    request: RunRequest
    store: RunStore
    index: RunIndex
    identity: RunIdentity
    generation: GenerationConfig
    input_columns: InputColumns
    feature_columns: Sequence[str] | None = None

    def keys(self, batch: pa.Table) -> list[bytes]:
        """The key of each row.

        Raises:
            MissingColumnError: A column that the call names is not in the data.
        """
        apart, names = self.request.key_column, batch.column_names
        check_columns(names, [apart] if apart else None, None)
        read = self.input_columns.choose(names, self.feature_columns, None)
        rows = read.rows({name: cells(batch[name]) for name in read.names}, len(batch))
        distinct = [str(cell) for cell in cells(batch[apart])] if apart else None
        return row_keys(rows, self.generation, self.identity, distinct)


def begin_run(
    request: RunRequest,
    spec: EngineSpec,
    generation: GenerationConfig,
    *,
    use_gpu: bool,
    input_columns: InputColumns,
    feature_columns: Sequence[str] | None,
) -> KeptRun:
    """Make the run directory, or look whether one can be gone on with, and what it holds. In the driver.

    Args:
        request: What the caller said.
        spec: Model and engine's settings.
        generation: Settings of the call.
        use_gpu: Whether ranks have GPUs.
        input_columns: Columns that are read.
        feature_columns: Columns that may be read; None means all.

    Raises:
        RunDirectoryError: The run cannot be kept there.
        CheckpointError: The model's files cannot be looked at.
    """
    identity = run_identity(spec, use_gpu=use_gpu)
    store = request.run_dir if isinstance(request.run_dir, RunStore) else RunStore(request.run_dir)
    store.begin(identity, num_rows=request.num_rows, resume=request.resume, generation=generation)
    return KeptRun(
        request=replace(request, run_dir=store.shown),
        store=store,
        index=store.build_index(retry_failed=request.retry_failed),
        identity=identity,
        generation=generation,
        input_columns=input_columns,
        feature_columns=feature_columns,
    )
