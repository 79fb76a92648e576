"""What `raydsinfer generate` was asked to do, put together from flags and checked without Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydsinfer.cli.formats import Format, checked_format
from raydsinfer.cli.inputs import Input
from raydsinfer.cli.kept import KeptRun
from raydsinfer.cli.outputs import output_format
from raydsinfer.cli.rejects import RejectsFile
from raydsinfer.cli.shape import GangShape
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig, RecoveryConfig
from raydsinfer.errors import InvalidSettingError
from raydsinfer.rows.answers import columns_of_call
from raydsinfer.rows.columns import InputColumns, kept_names
from raydsinfer.scoring.kept_run import STORED_COLUMN

if TYPE_CHECKING:
    from raydsinfer.checkpoint import DeepSpeedCheckpoint


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of `raydsinfer generate`.

    Args:
        model: Directory, URL or hub name.
        input: INPUT as given.
        output: OUTPUT as given.
        output_format: How OUTPUT is written.
        input_format: How INPUT is written; None means by suffix.
        columns: Names of the columns that are read.
        keep_columns: Input columns to keep; None means all.
        engine_said: Inference settings that the user gave.
        generation: Generation settings of the call.
        generation_said: Those that the user gave.
        gang: Deadlines.
        recovery: What happens when rows or gangs fail.
        shape: Ranks and gangs.
        batch_size: Rows of a call to a gang.
        address: Ray address.
        overwrite: Whether OUTPUT and the rejects may be replaced.
        debug: Whether to show logs.
        kept: Where rows are kept that are done; None: nowhere.
        rejects: Where error rows go besides OUTPUT; None: nowhere.
    """

    model: str
    input: str
    output: str
    output_format: Format
    input_format: Format | None
    columns: InputColumns
    keep_columns: tuple[str, ...] | None
    engine_said: Mapping[str, Any]
    generation: GenerationConfig
    generation_said: Mapping[str, Any]
    gang: GangConfig
    recovery: RecoveryConfig
    shape: GangShape
    batch_size: int
    address: str | None
    overwrite: bool
    debug: bool
    kept: KeptRun | None = None
    rejects: RejectsFile | None = None

    @property
    def counts_attempts(self) -> bool:
        """Whether rows come back with how often they were tried."""
        return self.kept is not None or self.rejects is not None

    def checkpoint(self) -> DeepSpeedCheckpoint:
        """The model, with the settings that were saved with it and those that the user gave on top.

        Raises:
            CheckpointError: There is no such model, or its saved settings cannot be read.
            ConfigurationError: A setting is wrong.
        """
        from raydsinfer.deepspeed_predictor import DeepSpeedPredictor

        checkpoint = checkpoint_of(self.model, self.engine_said)
        DeepSpeedPredictor.read_settings(checkpoint.spec.config, self.generation_said)
        return checkpoint

    def kept_columns(self, rows: Input) -> list[str]:
        """Input columns that the output has too.

        Raises:
            MissingColumnError: A column is not in the input.
            InvalidSettingError: A kept column would overwrite an output column.
        """
        available = list(rows.types)
        if not available and not rows.num_rows:  # an empty JSON file names no columns
            return []
        self.columns.choose(available, None, self.keep_columns)
        if self.keep_columns is not None:
            return kept_names(self.keep_columns, self.generation, report_attempts=self.counts_attempts)
        own = columns_of_call(self.generation, self.counts_attempts)
        return [name for name in available if name not in own and (name != STORED_COLUMN or self.kept is None)]


def checkpoint_of(model: str, engine_said: Mapping[str, Any]) -> DeepSpeedCheckpoint:
    """A model, with the settings that were saved with it and those that the user gave on top.

    Raises:
        CheckpointError: There is no such model, or its saved settings cannot be read.
        ConfigurationError: A setting is wrong.
    """
    from raydsinfer.checkpoint import DeepSpeedCheckpoint

    if engine_said.get("engine") == "echo":
        return DeepSpeedCheckpoint.from_pretrained(model, EngineConfig(**engine_said))
    saved = DeepSpeedCheckpoint.from_pretrained(model)
    if not engine_said:
        return saved
    return DeepSpeedCheckpoint.from_pretrained(model, saved.spec.config.replaced(engine_said))


def make_job(
    *,
    model: str,
    input: str,
    output: str,
    format: str | None,
    input_format: str | None,
    columns: InputColumns,
    keep_columns: str | None,
    engine: Mapping[str, Any],
    generation: Mapping[str, Any],
    gang: Mapping[str, Any],
    recovery: Mapping[str, Any],
    shape: GangShape,
    batch_size: int,
    address: str | None,
    overwrite: bool,
    debug: bool,
    kept: KeptRun | None = None,
    rejects: RejectsFile | None = None,
) -> Job:
    """Check the flags. Nothing is read or started.

    Raises:
        ConfigurationError: A setting is wrong.
        OutputError: OUTPUT does not say how to write.
    """
    if batch_size < 1:
        raise InvalidSettingError(name="--batch-size", value=batch_size, expected="1 or more")
    if rejects is not None and _same_place(rejects.path, output):
        expected = "another place than OUTPUT's"
        raise InvalidSettingError(name="--rejects", value=rejects.path, expected=expected)
    EngineConfig(**engine)  # what is wrong with it is wrong whatever was saved with the model
    return Job(
        model=model,
        input=input,
        output=output,
        output_format=output_format(output, checked_format("--format", format) if format else None),
        input_format=checked_format("--input-format", input_format) if input_format else None,
        columns=columns,
        keep_columns=None if keep_columns is None else tuple(n.strip() for n in keep_columns.split(",") if n.strip()),
        engine_said=engine,
        generation=GenerationConfig(**generation),
        generation_said=generation,
        gang=GangConfig(**gang),
        recovery=RecoveryConfig(**recovery),
        shape=shape,
        batch_size=batch_size,
        address=address,
        overwrite=overwrite,
        debug=debug,
        kept=kept,
        rejects=rejects,
    )


def _same_place(first: str, second: str) -> bool:
    def place(path: str) -> str:
        return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))

    return first != "-" and place(first) == place(second)
