"""Predictors over data sets: Ray AIR's `BatchPredictor`, on Ray Data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ray.data import ActorPoolStrategy, DataContext, Dataset

from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
from raydsinfer.errors import InvalidSettingError, UnsupportedError
from raydsinfer.predictor import pandas_udf_predictor
from raydsinfer.rows.columns import check_columns
from raydsinfer.runs.store import RunStore
from raydsinfer.scoring.gang_stage import known_columns, predict_on_gangs
from raydsinfer.scoring.kept_run import run_request
from raydsinfer.scoring.pool import ScoringPool
from raydsinfer.scoring.scorer import Scorer, ScoringPlan

if TYPE_CHECKING:
    import pandas as pd
    from ray.data.preprocessor import Preprocessor
    from ray.train import Checkpoint

_DEFAULT_BATCH_SIZE = 4096  # Ray AIR's, for predictors that are not ours


class BatchPredictor:
    """Predicts data sets: loads a predictor in each of some Ray Data actors and streams the rows through.

    Works with `DeepSpeedPredictor` and with anyone's own `Predictor` subclass.

    Args:
        checkpoint: Goes to `predictor_cls.from_checkpoint`.
        predictor_cls: A `Predictor` subclass.
        **predictor_kwargs: Go to `from_checkpoint`. Small ones: each actor gets its own copy.
    """

    def __init__(self, checkpoint: Checkpoint | None, predictor_cls: type[Any], **predictor_kwargs: Any) -> None:
        self._checkpoint, self._predictor_cls = checkpoint, predictor_cls
        self._predictor_kwargs = predictor_kwargs
        self._override_preprocessor: Preprocessor | None = None

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, predictor_cls: type[Any], **kwargs: Any) -> BatchPredictor:
        """Predict with a model.

        Args:
            checkpoint: A `DeepSpeedCheckpoint`, or what `predictor_cls` knows how to load.
            predictor_cls: `DeepSpeedPredictor`, or any `Predictor` subclass.
            **kwargs: Go to `predictor_cls.from_checkpoint`.
        """
        return cls(checkpoint, predictor_cls, **kwargs)

    @classmethod
    def from_pandas_udf(cls, pandas_udf: Callable[..., pd.DataFrame]) -> BatchPredictor:
        """Predict with a function.

        Args:
            pandas_udf: Gets a data frame and the pass-through keyword arguments of `predict`;
                returns a data frame.
        """
        return cls(None, pandas_udf_predictor(pandas_udf))

    def get_preprocessor(self) -> Preprocessor | None:
        """What the rows go through first: the one that was set, else the checkpoint's, if it has one."""
        if self._override_preprocessor is not None:
            return self._override_preprocessor
        from_checkpoint = getattr(self._checkpoint, "get_preprocessor", None)
        return from_checkpoint() if from_checkpoint is not None else None

    def set_preprocessor(self, preprocessor: Preprocessor | None) -> None:
        """Set what the rows go through first; None means the checkpoint's."""
        self._override_preprocessor = preprocessor

    def predict(
        self,
        data: Dataset,
        *,
        feature_columns: Sequence[str] | None = None,
        keep_columns: Sequence[str] | None = None,
        batch_size: int | None = None,
        min_scoring_workers: int = 1,
        max_scoring_workers: int | None = None,
        num_cpus_per_worker: float | None = None,
        num_gpus_per_worker: float | None = None,
        separate_gpu_stage: bool = True,
        ray_remote_args: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | RunStore | None = None,
        resume: bool = True,
        retry_failed: bool = False,
        duplicates: Literal["once", "each"] = "once",
        key_column: str | None = None,
        yield_stored: bool = True,
        num_rows: int | None = None,
        report_attempts: bool = False,
        **predict_kwargs: Any,
    ) -> Dataset:
        """Predict all rows of a data set, lazily: nothing runs before the result is consumed.

        The output has the rows of each batch in order; batches come as they get ready, unless the
        data context preserves order.

        Args:
            data: Any Ray data set.
            feature_columns: Columns, after preprocessing, that the predictor gets; None means all.
            keep_columns: Columns, after preprocessing, that the output has besides the predictions.
            batch_size: Rows that a predictor gets at once. Default: 4096; with `DeepSpeedPredictor` a quarter
                of `EngineConfig.max_running`, or twice `max_batch_size` if that is more; only the first with
                ``batching="continuous"``, only the second where the gang is known to batch statically.
            min_scoring_workers: Fewest predictors; with `DeepSpeedPredictor`, gangs.
            max_scoring_workers: Most predictors. Default: as many as find room; with
                `DeepSpeedPredictor`, as many gangs as the present nodes hold.
            num_cpus_per_worker: CPUs for a predictor's actor. Default: 1, and 0 if it has GPUs or a gang.
            num_gpus_per_worker: GPUs for a predictor's actor. With `DeepSpeedPredictor`, GPUs of a
                gang: short for ``scaling_config=ScalingConfig(num_workers=…, use_gpu=True)``.
            separate_gpu_stage: Preprocess in tasks of their own, which hold no GPU.
            ray_remote_args: Further `ray.remote` arguments of the predictors' actors.
            run_dir: Directory or URL where each row's answer is kept as soon as its batch is done, with
                `DeepSpeedPredictor` only. Rows whose answers are there already are not computed again, and where
                they all are, no gang starts. A row's key is made of what it asks for, the model and the settings.
            resume: Whether `run_dir` may hold rows already.
            retry_failed: Compute rows of `run_dir` again that came back with an error. With ``on_error="raise"``
                they always are.
            duplicates: With `run_dir`, ``once``: equal rows of a batch share one answer; ``each``: they do not, and
                `key_column` tells them apart.
            key_column: Column, after preprocessing, that becomes part of a row's key: an id, or the row's number.
            yield_stored: Whether rows come out whose answers were in `run_dir`. If not, only new ones do; all of
                them can be read with `raydsinfer.read_run`.
            num_rows: Rows of `data`, if you know: ``raydsinfer status`` can then say how many are left.
            report_attempts: Add ``num_attempts``, how often a row was sent to a gang, and with `run_dir`
                ``was_stored``. With `DeepSpeedPredictor` only.
            **predict_kwargs: Go to the predictor's `predict`: generation settings, for example.

        Raises:
            ConfigurationError: A setting is wrong; nothing was started.
            MissingColumnError: A column that the call names is not in the data. Where the columns
                are not known yet, it is raised when the result is consumed.
            RunDirectoryError: The run cannot be kept in `run_dir`, or not be continued from it.
        """
        if not isinstance(data, Dataset):
            raise InvalidSettingError(name="data", value=type(data), expected="a ray.data.Dataset")
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise InvalidSettingError(name="batch_size", value=batch_size, expected="a whole number, 1 or more")
        pool = ScoringPool(
            min_size=min_scoring_workers,
            max_size=max_scoring_workers,
            num_cpus=num_cpus_per_worker,
            num_gpus=num_gpus_per_worker,
            remote_args=ray_remote_args or {},
        )
        run = run_request(
            run_dir,
            resume=resume,
            num_rows=num_rows,
            retry_failed=retry_failed,
            duplicates=duplicates,
            key_column=key_column,
            yield_stored=yield_stored,
        )
        on_gangs = issubclass(self._predictor_cls, DeepSpeedPredictor)
        if not on_gangs and (run is not None or report_attempts):
            raise UnsupportedError(
                what=f"{'run_dir' if run is not None else 'report_attempts'} with {self._predictor_cls.__name__}",
                why="only what DeepSpeedPredictor makes of a row is known to depend on the row and the settings alone",
                instead="Leave it out, or use a subclass of DeepSpeedPredictor.",
            )
        plan = ScoringPlan(
            checkpoint=self._checkpoint,
            predictor_cls=self._predictor_cls,
            predictor_kwargs=self._predictor_kwargs,
            predict_kwargs=predict_kwargs,
            preprocessor=self.get_preprocessor(),
            feature_columns=feature_columns,
            keep_columns=keep_columns,
            report_attempts=report_attempts,
        )
        if plan.preprocessor is None and (names := known_columns(data)) is not None:
            check_columns(names, feature_columns, keep_columns)
        if on_gangs:
            return predict_on_gangs(data, plan, pool, batch_size, separate_gpu_stage, run)
        return predict_in_actors(data, plan, pool, batch_size or _DEFAULT_BATCH_SIZE, separate_gpu_stage)

    def predict_pipelined(self, data: Dataset, **kwargs: Any) -> Dataset:
        """Ray AIR's windowed prediction, which `predict` has made needless.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            what="predict_pipelined",
            why="Ray no longer has pipelines of data set windows",
            instead="Use predict(): it streams, holding only a few batches at a time.",
        )

    def __repr__(self) -> str:
        return f"BatchPredictor(checkpoint={self._checkpoint!r}, predictor_cls={self._predictor_cls.__name__})"


def predict_in_actors(
    data: Dataset, plan: ScoringPlan, pool: ScoringPool, batch_size: int, separate_gpu_stage: bool
) -> Dataset:
    """Predict with a predictor that lives in its Ray Data actor.

    Args:
        data: The rows.
        plan: What each actor does.
        pool: The actors.
        batch_size: Rows of a batch.
        separate_gpu_stage: Preprocess in tasks of their own if the actors hold GPUs.
    """
    has_gpus = bool(pool.num_gpus)
    kwargs = dict(plan.predictor_kwargs)
    if has_gpus and "use_gpu" in inspect.signature(plan.predictor_cls.from_checkpoint).parameters:
        kwargs.setdefault("use_gpu", True)
    plan = replace(
        plan, predictor_kwargs=kwargs, cast_tensor_columns=DataContext.get_current().enable_tensor_extension_casting
    )
    if plan.preprocessor is not None and (separate_gpu_stage or not has_gpus):
        data, plan = plan.preprocessor.transform(data), replace(plan, preprocessor=None)
    batch_format = plan.predictor_cls._batch_format_to_use()
    return data.map_batches(
        Scorer,
        fn_constructor_kwargs={"plan": plan},
        batch_size=batch_size,
        batch_format=getattr(batch_format, "value", batch_format),
        zero_copy_batch=False,  # what Ray's predictors got: they may write to their batch
        compute=ActorPoolStrategy(min_size=pool.min_size, max_size=pool.max_size),
        **pool.actor_options(default_num_cpus=0 if has_gpus else 1),
    )
