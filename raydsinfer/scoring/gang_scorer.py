"""What Ray Data runs in its actors where a predictor holds a gang."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from raydsinfer.config import GangConfig, RecoveryConfig
from raydsinfer.errors import (
    ClusterCapacityError,
    RaydsinferError,
    RestartsExhaustedError,
    VerificationError,
    WorkerGroupError,
)
from raydsinfer.groups.history import History
from raydsinfer.groups.keeper_line import KeeperLine
from raydsinfer.rows.batches import convert
from raydsinfer.scoring.error_rate import check_error_rate
from raydsinfer.scoring.gang_holder import GangHolder
from raydsinfer.scoring.kept_rows import KeptRows
from raydsinfer.scoring.kept_run import KeptRun
from raydsinfer.scoring.scorer import Preprocessing, ScoringPlan
from raydsinfer.unwrap import ScoringError

logger = logging.getLogger(__name__)


class GangScorer:
    """Runs a predictor that holds a gang; batches are Arrow tables. Several threads call it at once.

    There is no shutdown here: in an actor that Ray is ending, calls to the ranks are no longer answered.
    The ranks end with this process, their owner, and the keeper gives the placement group back.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        self._plan, self._preprocessed = plan, Preprocessing(plan.preprocessor)
        self._recovery = plan.predictor_kwargs.get("recovery_config") or RecoveryConfig()
        self._limits = plan.predictor_kwargs.get("gang_config") or GangConfig()
        self._gang, self._keeper = GangHolder(self._start), KeeperLine(plan.keeper, "the gangs of this job")
        self._kept: KeptRows | None = None
        # A process that Ray started again has the batches of the one before; a new one has none until it is ready.
        self._has_batches = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        # An error here would reach the driver as the text of a dead actor: the first batch raises it.
        try:
            if self._has_batches:
                self._count_restart()
            if plan.run is not None:
                self._kept = KeptRows(plan.run, plan.keep_columns or (), report_attempts=plan.report_attempts)
            # While it waits for a place here, Ray Data gives its batches to others.
            if plan.run is None or not may_hold_all(plan.run):
                self._gang.get()
        except RaydsinferError as error:
            self._gang.fail(error)
        self._has_batches = True

    def __call__(self, batch: Any) -> Any:
        try:
            return self._score(convert(self._preprocessed(batch), "arrow"))
        except RaydsinferError as error:
            return _raising(ScoringError(error))

    def _start(self) -> Any:
        plan = self._plan
        while True:
            try:
                predictor = plan.predictor_cls.from_checkpoint(
                    plan.checkpoint, keeper=plan.keeper, **plan.predictor_kwargs
                )
            except ClusterCapacityError as error:
                if not self._may_wait(error):
                    raise
            else:
                # Preprocessing inside predict() would come after the choice of columns.
                predictor.set_preprocessor(None)
                return predictor

    def _score(self, batch: pa.Table) -> pa.Table:
        if self._kept is None:
            output = new = self._compute(batch)
        else:
            output, new = self._kept.answer(batch, self._compute, self._gang.restarts)
        self._count(new)  # now that they are stored
        return output

    def _compute(self, batch: pa.Table) -> pa.Table:
        plan = self._plan
        options: dict[str, Any] = {"feature_columns": plan.feature_columns, "keep_columns": plan.keep_columns}
        if plan.run is not None or plan.report_attempts:
            options["report_attempts"] = True
        while True:
            predictor = self._gang.get()
            try:
                output: pa.Table = predictor.predict(batch, **options, **plan.predict_kwargs)
            except ClusterCapacityError as error:  # it lost a node, and there is no other
                if not self._may_wait(error):
                    self._gang.fail(error)
                    raise
                self._gang.discard(predictor)
            except (WorkerGroupError, RestartsExhaustedError, VerificationError) as error:
                # The next batch is on its way already, and may be the first that the driver hears of.
                if predictor.group.broken:
                    self._gang.fail(error)
                raise
            else:
                return output

    def _may_wait(self, error: ClusterCapacityError) -> bool:
        """Whether other gangs work: beside them one more is welcome but not needed.

        Then it waits on, as Ray's own pending actors do. The end of the job ends the waiting. But others may come to
        a stop behind batches that this one has, where the order of the rows is kept: then nobody would go on.
        """
        if not self._keeper.ask("num_placed"):
            return False
        if self._has_batches:
            idle_s = self._keeper.ask("idle_s")
            if idle_s is None or idle_s >= self._limits.placement_timeout_s:
                return False
        logger.info("%s: waits on, because other gangs work", error.gang)
        return True

    def _count(self, output: pa.Table | None) -> None:
        """Tell the keeper that a batch is done, with the rows that were computed for it, if any were."""
        limit = self._recovery.max_error_rate
        if output is None or limit is None:
            self._keeper.tell("count_rows", 0 if output is None else len(output), 0)
            return
        errors = [error for error in output.column("error").to_pylist() if error]
        counts = self._keeper.ask("count_rows", len(output), len(errors), errors[0] if errors else "")
        if counts is not None:
            check_error_rate(counts, limit)

    def _count_restart(self) -> None:
        """Count that Ray started this process again: what a row does to it, it does again, and Ray has no limit.

        Raises:
            RestartsExhaustedError: There were too many.
        """
        limit = self._recovery.max_job_restarts
        if self._keeper.ask("take_restart", limit, self._recovery.restart_window_s) is False:
            history = History()
            history.failed(
                "a predictor's process died while it held a gang (see Ray's log of its actor for the reason)"
            )
            raise RestartsExhaustedError(gang="a gang", limit=limit, setting="max_job_restarts", history=history.lines)


def may_hold_all(run: KeptRun) -> bool:
    """Whether so many rows are stored that perhaps none is missing: then the first that is starts a gang.

    Raises:
        RunDirectoryError: The index cannot be read.
    """
    num_rows, index = run.request.num_rows, run.index
    num_stored = len(index) - (index.num_errors if run.request.retry_failed else 0)
    return num_rows is not None and num_stored >= num_rows


def _raising(error: ScoringError) -> Iterator[Any]:
    """A generator that raises: Ray Data passes on unchanged what comes out of one.

    What a function raises it wraps, by a setting of the process's current `DataContext`; where several batches
    are in a process, the current one may be any of theirs.
    """
    raise error
    yield
