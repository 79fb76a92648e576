"""What Ray Data runs in its actors: one predictor, batch after batch."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from raydsinfer.errors import ClusterCapacityError, RaydsinferError, WorkerGroupError
from raydsinfer.rows.batches import ARRAY_COLUMN, convert
from raydsinfer.rows.columns import check_columns
from raydsinfer.unwrap import ScoringError, raised_in_one_piece

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data.preprocessor import Preprocessor


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """What each actor does. Small and plain: Ray stores it once more for every actor that it restarts.

    Args:
        checkpoint: Goes to `predictor_cls.from_checkpoint`.
        predictor_cls: A `Predictor` subclass, ours or Ray's.
        predictor_kwargs: Go to `from_checkpoint`.
        predict_kwargs: Go to `predict`.
        preprocessor: What each batch goes through in the actor, if not before it.
        feature_columns: Columns for the predictor; None means all.
        keep_columns: Columns that the output keeps.
        cast_tensor_columns: Whether the predictor gets tensor columns as arrays.
        keeper: The `GangKeeper`, for predictors that hold a gang.
    """

    checkpoint: Any
    predictor_cls: Any
    predictor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    predict_kwargs: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Preprocessor | None = None
    feature_columns: Sequence[str] | None = None
    keep_columns: Sequence[str] | None = None
    cast_tensor_columns: bool = False
    keeper: ActorHandle[Any] | None = None


class Scorer:
    """Runs any predictor. Preprocessing comes first, then the choice of columns."""

    def __init__(self, plan: ScoringPlan) -> None:
        self._plan = plan
        self._preprocessing = threading.Lock()
        self._predictor = self._start()
        if plan.cast_tensor_columns:
            self._predictor._set_cast_tensor_columns()
        # Preprocessing inside predict() would come after the choice of columns.
        self._predictor.set_preprocessor(None)

    def __call__(self, batch: Any) -> Any:
        with raised_in_one_piece():
            return self._score(batch)

    def _start(self) -> Any:
        return self._plan.predictor_cls.from_checkpoint(self._plan.checkpoint, **self._plan.predictor_kwargs)

    def _score(self, batch: Any) -> Any:
        if self._plan.preprocessor is not None:
            with self._preprocessing:  # nobody promises that it stands several threads at once
                batch = self._plan.preprocessor.transform_batch(batch)
        return self._predict(batch)

    def _predict(self, batch: Any) -> Any:
        plan = self._plan
        check_columns(list(batch), plan.feature_columns, plan.keep_columns)
        output = self._predictor.predict(_features(batch, plan.feature_columns), **plan.predict_kwargs)
        if isinstance(output, np.ndarray):
            output = {ARRAY_COLUMN: output}
        if not plan.keep_columns:
            return output
        if isinstance(output, dict):
            return {**output, **_select(batch, plan.keep_columns)}
        return output.assign(**{name: batch[name].to_numpy() for name in plan.keep_columns})


class GangScorer(Scorer):
    """Runs a predictor that holds a gang; batches are Arrow tables. Several threads call it at once.

    There is no shutdown here: in an actor that Ray is ending, calls to the ranks are no longer answered.
    The ranks end with this process, their owner, and the keeper gives the placement group back.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        # An error here would reach the driver as the text of a dead actor: the first batch raises it.
        self._error: RaydsinferError | None = None
        try:
            super().__init__(plan)
        except RaydsinferError as error:
            self._error = error

    def __call__(self, batch: Any) -> Any:
        try:
            return self._score(batch)
        except RaydsinferError as error:
            return _raising(ScoringError(error))

    def _start(self) -> Any:
        plan = self._plan
        while True:
            try:
                return plan.predictor_cls.from_checkpoint(plan.checkpoint, keeper=plan.keeper, **plan.predictor_kwargs)
            except ClusterCapacityError:
                # Beside gangs that work, one more is welcome but not needed: wait on, as Ray's own
                # pending actors do. The end of the job ends the waiting.
                if plan.keeper is None or not ray.get(plan.keeper.num_placed.remote()):
                    raise

    def _predict(self, batch: Any) -> Any:
        if self._error is not None:
            raise copy.copy(self._error)
        columns = {"feature_columns": self._plan.feature_columns, "keep_columns": self._plan.keep_columns}
        try:
            return self._predictor.predict(convert(batch, "arrow"), **columns, **self._plan.predict_kwargs)
        except WorkerGroupError as error:
            # The next batch is on its way already, and may be the first that the driver hears of.
            if self._predictor.group.broken:
                self._error = self._error or error
            raise


def _raising(error: ScoringError) -> Iterator[Any]:
    """A generator that raises: Ray Data passes on unchanged what comes out of one.

    What a function raises it wraps, by a setting of the process's current `DataContext`; where several batches
    are in a process, the current one may be any of theirs.
    """
    raise error
    yield


def _features(batch: Any, names: Sequence[str] | None) -> Any:
    # Ray Data gives a data set of arrays this one column; predictors know it as an array.
    if isinstance(batch, dict) and list(batch) == [ARRAY_COLUMN]:
        return batch[ARRAY_COLUMN]
    return batch if names is None else _select(batch, names)


def _select(batch: Any, names: Sequence[str]) -> Any:
    return {name: batch[name] for name in names} if isinstance(batch, dict) else batch[list(names)]
