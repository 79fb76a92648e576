"""The rows of a run directory beside those of a gang: only what is missing is computed, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from raydsinfer.errors import UnsupportedError
from raydsinfer.rows.answers import ATTEMPTS_COLUMN
from raydsinfer.rows.columns import output_schema
from raydsinfer.runs.index import Place
from raydsinfer.scoring.busy_time import BusyTime
from raydsinfer.scoring.division import Division, divide, merged, taken
from raydsinfer.scoring.kept_run import STORED_COLUMN, KeptRun

Compute = Callable[[pa.Table], pa.Table]
"""Answers rows: gets a batch, gives the output columns and the kept ones."""


class KeptRows:
    """Answers batches from a run directory, and what it lacks through a gang. Several threads may ask at once.

    Args:
        run: The run.
        keep_columns: Columns of the batch that come out, too.
        report_attempts: Whether the columns come out that say how often a row was tried, and whether it was stored.
    """

    def __init__(self, run: KeptRun, keep_columns: Sequence[str], *, report_attempts: bool) -> None:
        self._run, self._keep_columns, self._report_attempts = run, keep_columns, report_attempts
        self._busy = BusyTime()
        self._schema = output_schema(run.generation, report_attempts=True)

    def answer(
        self, batch: pa.Table, compute: Compute, restarts: Callable[[], int]
    ) -> tuple[pa.Table, pa.Table | None]:
        """The answers to a batch, in its order.

        Args:
            batch: The rows.
            compute: Answers those that are not stored.
            restarts: Restarts of the gang that nobody has counted yet.

        Returns:
            What comes out, and what was computed and is stored now; None if nothing was.

        Raises:
            UnsupportedError: The gang's predictor makes columns of its own.
            RunDirectoryError: Rows cannot be read or stored.
        """
        index, request, keys = self._run.index, self._run.request, self._run.keys(batch)
        division = divide(keys, index.find(keys), yield_stored=request.yield_stored)
        # Kept columns come from the batch; stored ones may be of other types.
        stored = index.read(division.places, self._schema.names) if division.places else None
        new = None
        if division.new:
            with self._busy.batch():
                new = compute(taken(batch, division.new))
            self._require_known(new)
            new_keys = [keys[position] for position in division.new]
            self._run.store.commit(
                new_keys,
                new,
                seconds=self._busy.take(),
                num_restarts=restarts(),
                num_retried=index.num_failed(new_keys),
            )
        return self._finished(batch, division, merged(division, stored, new, self._schema)), new

    def _require_known(self, new: pa.Table) -> None:
        if strange := set(new.column_names) - {*self._schema.names, *self._keep_columns}:
            raise UnsupportedError(
                what=f"run_dir with a predictor that makes columns of its own ({', '.join(sorted(strange))})",
                why="rows that were stored before need not have them",
                instead="Leave run_dir out, or make these columns of the result.",
            )

    def _finished(self, batch: pa.Table, division: Division[Place], table: pa.Table) -> pa.Table:
        if self._report_attempts:
            table = table.append_column(STORED_COLUMN, pa.array(division.stored, pa.bool_()))
        else:
            table = table.drop_columns([ATTEMPTS_COLUMN])
        rows = taken(batch, division.rows)
        for name in self._keep_columns:
            # The batch's own: rows that share an answer may differ in them.
            table = table.append_column(batch.schema.field(name), rows[name])
        return table
