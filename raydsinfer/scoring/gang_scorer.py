"""What Ray Data runs in its actors where a predictor holds a gang."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from raydsinfer.config import RecoveryConfig
from raydsinfer.errors import ClusterCapacityError, RaydsinferError, RestartsExhaustedError, WorkerGroupError
from raydsinfer.rows.batches import convert
from raydsinfer.scoring.error_rate import check_error_rate
from raydsinfer.scoring.gang_holder import GangHolder
from raydsinfer.scoring.kept_rows import KeptRows
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
        self._gang = GangHolder(self._start)
        self._kept: KeptRows | None = None
        # An error here would reach the driver as the text of a dead actor: the first batch raises it.
        try:
            if plan.run is not None:
                self._kept = KeptRows(plan.run, plan.keep_columns or (), report_attempts=plan.report_attempts)
            # Where rows are stored, perhaps all are: then the first that is not starts the gang.
            if plan.run is None or not plan.run.index.parts:
                self._gang.get()
        except RaydsinferError as error:
            self._gang.fail(error)

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
        if new is not None:
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
            except (WorkerGroupError, RestartsExhaustedError) as error:
                # The next batch is on its way already, and may be the first that the driver hears of.
                if predictor.group.broken:
                    self._gang.fail(error)
                raise
            else:
                return output

    def _may_wait(self, error: ClusterCapacityError) -> bool:
        """Whether other gangs work: beside them one more is welcome but not needed.

        Then it waits on, as Ray's own pending actors do. The end of the job ends the waiting.
        """
        keeper = self._plan.keeper
        if keeper is None or not ray.get(keeper.num_placed.remote()):
            return False
        logger.info("%s: waits on, because other gangs work", error.gang)
        return True

    def _count(self, output: pa.Table) -> None:
        limit, keeper = self._recovery.max_error_rate, self._plan.keeper
        if limit is None or keeper is None:
            return
        errors = [error for error in output.column("error").to_pylist() if error]
        example = errors[0] if errors else ""
        check_error_rate(ray.get(keeper.count_rows.remote(len(output), len(errors), example)), limit)


def _raising(error: ScoringError) -> Iterator[Any]:
    """A generator that raises: Ray Data passes on unchanged what comes out of one.

    What a function raises it wraps, by a setting of the process's current `DataContext`; where several batches
    are in a process, the current one may be any of theirs.
    """
    raise error
    yield
