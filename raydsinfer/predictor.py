"""The predictor contract that Ray AIR defined: one model, one batch at a time, the same type out as in.

Ray had it as `ray.train.predictor.Predictor` up to 2.55. Where that still imports, ours is a subclass
of it, so that code which asks for Ray's class takes ours.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from raydsinfer.errors import UnsupportedError

if TYPE_CHECKING:
    import pandas as pd
    from ray.data.preprocessor import Preprocessor
    from ray.train import Checkpoint

    class _Base(abc.ABC):  # noqa: B024  (the abstract methods are in Predictor)
        pass

    _RayNotSerializable = RuntimeError
else:
    try:
        _ray_predictor = import_module("ray.train.predictor")
        _Base = _ray_predictor.Predictor
        _RayNotSerializable = _ray_predictor.PredictorNotSerializableException
    except ImportError:

        class _Base(abc.ABC):  # noqa: B024  (the abstract methods are in Predictor)
            """Stands in for Ray's class."""

        _RayNotSerializable = RuntimeError


class PredictorNotSerializableException(UnsupportedError, _RayNotSerializable):
    """A predictor was to be pickled. Ray's name, and Ray's class where Ray still has it."""


class Predictor(_Base):
    """Base of predictors: a subclass says how to load a model and how to predict a batch.

    A subclass overrides `from_checkpoint` and at least one of `_predict_pandas`, `_predict_numpy` and
    `_predict_arrow`; its `__init__` calls this one.

    Args:
        preprocessor: A Ray Data preprocessor that each batch goes through first.
    """

    def __init__(self, preprocessor: Preprocessor | None = None) -> None:
        self._preprocessor = preprocessor
        self._cast_tensor_columns = False

    @classmethod
    @abc.abstractmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **kwargs: Any) -> Predictor:
        """Load the model.

        Args:
            checkpoint: Where the model is.
            **kwargs: What the subclass wants to know.
        """
        raise NotImplementedError

    @classmethod
    def from_pandas_udf(cls, pandas_udf: Callable[..., pd.DataFrame]) -> Predictor:
        """A predictor without a model, from a function.

        Args:
            pandas_udf: Gets a data frame and the keyword arguments of `predict`; returns a data frame.
        """
        return pandas_udf_predictor(pandas_udf).from_checkpoint(None)  # type: ignore[arg-type]

    def get_preprocessor(self) -> Preprocessor | None:
        """What each batch goes through before it is predicted."""
        return self._preprocessor

    def set_preprocessor(self, preprocessor: Preprocessor | None) -> None:
        """Set what each batch goes through before it is predicted; None for nothing."""
        self._preprocessor = preprocessor

    @classmethod
    def preferred_batch_format(cls) -> Any:
        """The format to use where both `_predict_pandas` and `_predict_numpy` exist: ``"pandas"``."""
        return "pandas"

    @classmethod
    def _batch_format_to_use(cls) -> Any:
        has_pandas = _overrides(cls, "_predict_pandas")
        has_numpy = _overrides(cls, "_predict_numpy")
        if has_pandas and has_numpy:
            return cls.preferred_batch_format()
        if not (has_pandas or has_numpy or _overrides(cls, "_predict_arrow")):
            raise UnsupportedError(
                what=f"predicting with {cls.__name__}",
                why="it has neither _predict_pandas nor _predict_numpy",
                instead="Define one of them in the class.",
            )
        return "numpy" if has_numpy else "pandas"

    def _set_cast_tensor_columns(self) -> None:
        """Give the model's methods tensor columns as plain arrays, and turn arrays they return into tensor columns."""
        self._cast_tensor_columns = True

    def predict(self, data: Any, **kwargs: Any) -> Any:
        """Predict a batch.

        Args:
            data: A pandas DataFrame, an ndarray (one column), or a dictionary of ndarrays.
            **kwargs: Go to `_predict_pandas` or `_predict_numpy`.

        Returns:
            Predictions, of the same type as `data`; a dictionary where one ndarray cannot hold them.

        Raises:
            InvalidSettingError: `data` is of another type.
        """
        from raydsinfer.rows import batches

        if not hasattr(self, "_preprocessor"):
            raise UnsupportedError(
                what=f"{type(self).__name__}.predict",
                why="its __init__ did not call Predictor.__init__",
                instead="Call super().__init__(preprocessor) in it.",
            )
        wanted = batches.format_of(data)
        if self._preprocessor is not None:
            data = self._preprocessor.transform_batch(data)
        return batches.convert(self._predict_in(data, kwargs), wanted, tensors=self._cast_tensor_columns)

    def _predict_in(self, data: Any, kwargs: dict[str, Any]) -> Any:
        """Predict in the format that the subclass has."""
        from raydsinfer.rows import batches

        if batches.format_of(data) == "arrow" and _overrides(type(self), "_predict_arrow"):
            return self._predict_arrow(data, **kwargs)
        use = str(getattr(self._batch_format_to_use(), "value", self._batch_format_to_use()))
        converted = batches.convert(data, use, arrays=self._cast_tensor_columns)
        return (
            self._predict_pandas(converted, **kwargs) if use == "pandas" else self._predict_numpy(converted, **kwargs)
        )

    def _predict_pandas(self, data: pd.DataFrame, **kwargs: Any) -> pd.DataFrame:
        """Predict a data frame. For subclasses to override."""
        raise NotImplementedError

    def _predict_numpy(self, data: Any, **kwargs: Any) -> Any:
        """Predict an ndarray or a dictionary of ndarrays. For subclasses to override."""
        raise NotImplementedError

    def _predict_arrow(self, data: Any, **kwargs: Any) -> Any:
        """Predict an Arrow table. For subclasses to override; not part of Ray's contract."""
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise PredictorNotSerializableException(
            what=f"pickling a {type(self).__name__}",
            why="it holds a loaded model",
            instead="Send the checkpoint, and call from_checkpoint where the predictor is wanted.",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(preprocessor={self.get_preprocessor()!r})"


def pandas_udf_predictor(pandas_udf: Callable[..., pd.DataFrame]) -> type[Predictor]:
    """The class behind `from_pandas_udf`."""

    class PandasUDFPredictor(Predictor):
        @classmethod
        def from_checkpoint(cls, checkpoint: Any, **kwargs: Any) -> Predictor:
            return cls()

        def _predict_pandas(self, data: pd.DataFrame, **kwargs: Any) -> pd.DataFrame:
            return pandas_udf(data, **kwargs)

    return PandasUDFPredictor


def _overrides(cls: type, method: str) -> bool:
    return getattr(cls, method) is not getattr(Predictor, method)
