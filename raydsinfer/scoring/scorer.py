"""What Ray Data runs in its actors: one predictor, batch after batch. Those with a gang are `GangScorer`'s."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raydsinfer.rows.batches import ARRAY_COLUMN
from raydsinfer.rows.columns import check_columns
from raydsinfer.unwrap import raised_in_one_piece

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data.preprocessor import Preprocessor

    from raydsinfer.scoring.kept_run import KeptRun


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
        run: Where the rows of a gang are kept; None: nowhere.
        report_attempts: Whether the output of a gang says how often a row was tried.
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
    run: KeptRun | None = None
    report_attempts: bool = False


class Preprocessing:
    """What each batch goes through first, if anything; several threads may ask.

    Args:
        preprocessor: Ray's.
    """

    def __init__(self, preprocessor: Preprocessor | None) -> None:
        self._preprocessor, self._lock = preprocessor, threading.Lock()

    def __call__(self, batch: Any) -> Any:
        if self._preprocessor is None:
            return batch
        with self._lock:  # nobody promises that it stands several threads at once
            return self._preprocessor.transform_batch(batch)


class Scorer:
    """Runs any predictor. Preprocessing comes first, then the choice of columns."""

    def __init__(self, plan: ScoringPlan) -> None:
        self._plan, self._preprocessed = plan, Preprocessing(plan.preprocessor)
        self._predictor = plan.predictor_cls.from_checkpoint(plan.checkpoint, **plan.predictor_kwargs)
        if plan.cast_tensor_columns:
            self._predictor._set_cast_tensor_columns()
        # Preprocessing inside predict() would come after the choice of columns.
        self._predictor.set_preprocessor(None)

    def __call__(self, batch: Any) -> Any:
        with raised_in_one_piece():
            return self._predict(self._preprocessed(batch))

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


def _features(batch: Any, names: Sequence[str] | None) -> Any:
    # Ray Data gives a data set of arrays this one column; predictors know it as an array.
    if isinstance(batch, dict) and list(batch) == [ARRAY_COLUMN]:
        return batch[ARRAY_COLUMN]
    return batch if names is None else _select(batch, names)


def _select(batch: Any, names: Sequence[str]) -> Any:
    return {name: batch[name] for name in names} if isinstance(batch, dict) else batch[list(names)]
