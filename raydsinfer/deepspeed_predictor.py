"""A model on a gang of ranks, as a predictor: N rows in, N rows out, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from raydsinfer.checkpoint import DeepSpeedCheckpoint
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig, RecoveryConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.tokenizer import Tokenizer, load_tokenizer
from raydsinfer.errors import InvalidSettingError
from raydsinfer.groups.supervisor import GangSupervisor
from raydsinfer.groups.worker_group import WorkerGroup
from raydsinfer.predictor import Predictor
from raydsinfer.rows.answers import Answer
from raydsinfer.rows.batches import cells
from raydsinfer.rows.columns import InputColumns, kept_names, output_frame, output_table
from raydsinfer.rows.limits import as_it_runs, changes_for, check_generation
from raydsinfer.rows.request import Row
from raydsinfer.serving.answering import RowAnswerer
from raydsinfer.serving.recovering import RecoveringService
from raydsinfer.serving.service import make_service
from raydsinfer.serving.shared_tokenizer import SharedTokenizer

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data.preprocessor import Preprocessor
    from ray.train import Checkpoint, ScalingConfig

logger = logging.getLogger(__name__)


class DeepSpeedPredictor(Predictor):
    """Completes prompts with a model that DeepSpeed shards over a gang of Ray actors.

    Made by `from_checkpoint`; a context manager that gives the gang's processes and GPUs back.

    A row's prompt is in the column `prompt_column`, or its conversation in `messages_column`, which
    wins where both are given. A column `generation_column`, if there is one, holds the row's own
    generation settings: a mapping whose None values mean "not set", or the JSON text of one.

    Several threads may call `predict` at once. Where the engine batches continuously
    (``group.load_report.batching``), their rows share it, and each call returns when its own rows are done;
    where it batches statically, the calls take turns.

    A gang that dies is started again, and what it was working on is sent again; a row that takes it down whenever
    it is alone on it gets an error. See `RecoveryConfig`.

    Attributes:
        input_columns: Names of the columns that are read.
        service: How rows are answered, through one life of the gang after the other.
    """

    def __init__(
        self,
        supervisor: GangSupervisor,
        tokenizer: Tokenizer,
        spec: EngineSpec,
        *,
        recovery_config: RecoveryConfig | None = None,
        use_gpu: bool = False,
        input_columns: InputColumns | None = None,
        generation: GenerationConfig | None = None,
        preprocessor: Preprocessor | None = None,
    ) -> None:
        super().__init__(preprocessor)
        self._supervisor, self._spec = supervisor, spec
        self._recovery = recovery_config or RecoveryConfig()
        self.input_columns = input_columns or InputColumns()
        self.service = RecoveringService(
            supervisor,
            lambda gang, most_rows: make_service(gang, supervisor.spec.config, most_rows),
            self._recovery,
            max_running=spec.config.max_running,
        )
        self._answerer = RowAnswerer(self.service, SharedTokenizer(tokenizer), spec, use_gpu=use_gpu)
        self._defaults = generation or GenerationConfig()

    @property
    def group(self) -> WorkerGroup:
        """The gang as it is now; while it starts again, the broken one."""
        return self._supervisor.group

    @property
    def num_restarts(self) -> int:
        """How often the gang was started again so far."""
        return self._supervisor.num_restarts

    @property
    def _config(self) -> EngineConfig:
        """The settings, with what the engine really does instead of "auto"."""
        return as_it_runs(self._supervisor.spec.config, self.group.load_report)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        scaling_config: ScalingConfig | None = None,
        gang_config: GangConfig | None = None,
        recovery_config: RecoveryConfig | None = None,
        keeper: ActorHandle[Any] | None = None,
        prompt_column: str = "prompt",
        messages_column: str = "messages",
        generation_column: str = "generation",
        on_progress: Callable[[str], None] | None = None,
        **generation: Any,
    ) -> DeepSpeedPredictor:
        """Start a gang with the model.

        Args:
            checkpoint: A `DeepSpeedCheckpoint`, or any Ray checkpoint whose directory holds a model.
            scaling_config: `num_workers` is the number of ranks that share the model. Default: one rank on CPU.
            gang_config: Deadlines.
            recovery_config: What happens when rows or the gang fail.
            keeper: A `GangKeeper` actor that owns the gang's placement group, and counts the restarts of all gangs
                of a job; None: this process does.
            prompt_column: Column of texts.
            messages_column: Column of conversations, lists of ``{"role": …, "content": …}``.
            generation_column: Column of the rows' own settings.
            on_progress: Gets a line of words at each step of the start.
            **generation: Defaults of `predict`'s generation settings, see `GenerationConfig`.

        Raises:
            ConfigurationError: A setting is wrong; nothing was started.
            CheckpointError: The model has no tokenizer, or its files are wrong.
            ClusterCapacityError: The cluster had no room for the gang in time.
            VerificationError: What the gang generates is not right, in no way to run the model (or the first, if
                strict).
            WorkerGroupError: A rank failed to start or to load, in a way that can only repeat.
            RestartsExhaustedError: Ranks failed to start or to load more often than they may.
        """
        from ray.train import ScalingConfig

        input_columns = InputColumns(prompt=prompt_column, messages=messages_column, generation=generation_column)
        own = DeepSpeedCheckpoint.from_checkpoint(checkpoint)
        # Against the engine's limits each call is checked, with its own settings on top of these.
        defaults = GenerationConfig(**generation)
        spec = own.replaced(**changes_for(own.spec.config, defaults)).spec
        # First what can fail without a gang.
        tokenizer = load_tokenizer(spec)
        scaling_config = scaling_config or ScalingConfig()
        supervisor = GangSupervisor(
            spec,
            scaling_config,
            gang_config=gang_config,
            recovery_config=recovery_config,
            keeper=keeper,
            on_progress=on_progress,
        )
        if note := supervisor.start().load_report.note:
            logger.warning("%s: %s", supervisor.name, note)
        return cls(
            supervisor,
            tokenizer,
            spec,
            recovery_config=recovery_config,
            use_gpu=bool(scaling_config.use_gpu),
            input_columns=input_columns,
            generation=defaults,
        )

    @staticmethod
    def read_settings(
        config: EngineConfig, generation: Mapping[str, Any], defaults: GenerationConfig | None = None
    ) -> GenerationConfig:
        """Check generation settings without a gang.

        Args:
            config: The engine's settings, for its limits.
            generation: Settings by name.
            defaults: Those that `generation` does not name.

        Raises:
            ConfigurationError: A setting does not exist or cannot be used.
        """
        settings = (defaults or GenerationConfig()).replaced(generation)
        check_generation(settings, config)
        return settings

    def predict(self, data: Any, **kwargs: Any) -> Any:
        """Complete the prompts of a batch.

        Args:
            data: A DataFrame, a dictionary of ndarrays, an Arrow table, or one ndarray of prompts.
            **kwargs: `feature_columns`: columns to read, None for all; `keep_columns`: columns of the
                input to keep in the output; `report_attempts`: add the column ``num_attempts``, how often the
                gang worked on each row; `on_error`: ``row`` or ``raise``, instead of `RecoveryConfig.on_error`; and
                generation settings, see `GenerationConfig`.

        Returns:
            A row for each row, in order and of the same type as `data`, with the columns ``output``,
            ``finish_reason`` (``stop``, ``length`` or ``error``), ``num_prompt_tokens``,
            ``num_output_tokens``, ``error`` (empty if the row is fine), and those kept. With
            `num_return_sequences` above 1, ``output``, ``finish_reason`` and ``num_output_tokens``
            hold lists. With `return_logprobs` there is ``logprobs`` too. A row that took the gang down has an
            ``error`` that begins with ``gang``.

        Raises:
            ConfigurationError: A setting is wrong, or one that this gang has not.
            MissingColumnError: A column that the call names is not in the data.
            RowFailedError: A row cannot be answered, and `on_error` is ``raise``.
            RestartsExhaustedError: The gang failed more often than it may be started again; rows are not to blame.
            WorkerGroupError: It was shut down, or could not be started again for a reason that can only repeat.
        """
        return super().predict(data, **kwargs)

    def shutdown(self) -> None:
        """End the gang's processes and give its GPUs back; idempotent.

        Calls of `predict` in other threads end with `WorkerGroupError`.
        """
        self.service.shutdown()

    def __enter__(self) -> DeepSpeedPredictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        num_ranks, model = len(self.group.ranks), without_secrets(self._spec.model)
        return f"DeepSpeedPredictor({model!r}, {num_ranks} rank{'s' if num_ranks > 1 else ''}, {self.group.name})"

    def _predict_pandas(
        self,
        data: pd.DataFrame,
        feature_columns: Sequence[str] | None = None,
        keep_columns: Sequence[str] | None = None,
        report_attempts: bool = False,
        on_error: str | None = None,
        **generation: Any,
    ) -> pd.DataFrame:
        if strange := [name for name in data.columns if not isinstance(name, str)]:
            hint = "Rename it, for example with data.rename(columns=str)."
            raise InvalidSettingError(name="a column's name", value=strange[0], expected="a text", hint=hint)
        names = list(data.columns)
        read = self.input_columns.choose(names, feature_columns, keep_columns)
        call = self.read_settings(self._config, generation, self._defaults)
        kept: dict[str, Any] = {name: data[name] for name in kept_names(keep_columns, call, report_attempts)}
        rows = read.rows({name: list(data[name]) for name in read.names}, len(data))
        answers = self._answer(rows, call, on_error)
        output = output_frame(answers, call, data.index, report_attempts)
        with_kept: pd.DataFrame = output.assign(**kept)
        return with_kept

    def _predict_arrow(
        self,
        data: pa.Table,
        feature_columns: Sequence[str] | None = None,
        keep_columns: Sequence[str] | None = None,
        report_attempts: bool = False,
        on_error: str | None = None,
        **generation: Any,
    ) -> pa.Table:
        read = self.input_columns.choose(data.column_names, feature_columns, keep_columns)
        call = self.read_settings(self._config, generation, self._defaults)
        kept = kept_names(keep_columns, call, report_attempts)
        rows = read.rows({name: cells(data[name]) for name in read.names}, len(data))
        answers = self._answer(rows, call, on_error)
        output = output_table(answers, call, report_attempts)
        for name in kept:
            output = output.append_column(data.schema.field(name), data[name])
        return output

    def _answer(self, rows: Sequence[Row], call: GenerationConfig, on_error: str | None) -> list[Answer]:
        recovery = self._recovery if on_error is None else self._recovery.replaced({"on_error": on_error})
        return self._answerer.answer(rows, call, self._config, recovery.on_error)
