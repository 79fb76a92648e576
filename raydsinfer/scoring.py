"""What Ray Data runs in its actors: one predictor, batch after batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from raydsinfer.batches import ARRAY_COLUMN, convert
from raydsinfer.columns import check_columns
from raydsinfer.errors import ClusterCapacityError

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
        self._predictor = self._start()
        if plan.cast_tensor_columns:
            self._predictor._set_cast_tensor_columns()
        # Preprocessing inside predict() would come after the choice of columns.
        self._predictor.set_preprocessor(None)

    def __call__(self, batch: Any) -> Any:
        plan = self._plan
        if plan.preprocessor is not None:
            batch = plan.preprocessor.transform_batch(batch)
        check_columns(list(batch), plan.feature_columns, plan.keep_columns)
        output = self._predictor.predict(_features(batch, plan.feature_columns), **plan.predict_kwargs)
        if isinstance(output, np.ndarray):
            output = {ARRAY_COLUMN: output}
        if not plan.keep_columns:
            return output
        if isinstance(output, dict):
            return {**output, **_select(batch, plan.keep_columns)}
        return output.assign(**{name: batch[name].to_numpy() for name in plan.keep_columns})

    def _start(self) -> Any:
        return self._plan.predictor_cls.from_checkpoint(self._plan.checkpoint, **self._plan.predictor_kwargs)


class GangScorer(Scorer):
    """Runs a predictor that holds a gang; batches are Arrow tables."""

    def __call__(self, table: Any) -> Any:
        plan = self._plan
        if plan.preprocessor is not None:
            table = convert(plan.preprocessor.transform_batch(table), "arrow")
        columns = {"feature_columns": plan.feature_columns, "keep_columns": plan.keep_columns}
        return self._predictor.predict(table, **columns, **plan.predict_kwargs)

    def _start(self) -> Any:
        while True:
            try:
                return self._plan.predictor_cls.from_checkpoint(
                    self._plan.checkpoint, keeper=self._plan.keeper, **self._plan.predictor_kwargs
                )
            except ClusterCapacityError:
                # Beside gangs that work, one more is welcome but not needed: wait on, as Ray's own
                # pending actors do. The end of the job ends the waiting.
                if not ray.get(self._plan.keeper.num_placed.remote()):  # type: ignore[union-attr]
                    raise

    def __del__(self) -> None:
        # Ray Data deletes its callables when an actor ends in peace; the keeper sees to other ends.
        if "_predictor" in self.__dict__:
            self._predictor.shutdown()


def _features(batch: Any, names: Sequence[str] | None) -> Any:
    # Ray Data gives a data set of arrays this one column; predictors know it as an array.
    if isinstance(batch, dict) and list(batch) == [ARRAY_COLUMN]:
        return batch[ARRAY_COLUMN]
    return batch if names is None else _select(batch, names)


def _select(batch: Any, names: Sequence[str]) -> Any:
    return {name: batch[name] for name in names} if isinstance(batch, dict) else batch[list(names)]
