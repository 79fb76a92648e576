"""What `raydsinfer generate` was asked to do, put together from flags and checked without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydsinfer.cli.formats import Format, checked_format
from raydsinfer.cli.inputs import Input
from raydsinfer.cli.outputs import output_format
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig
from raydsinfer.errors import InvalidSettingError
from raydsinfer.rows.answers import columns_of_call
from raydsinfer.rows.columns import InputColumns, kept_names

if TYPE_CHECKING:
    from ray.train import ScalingConfig

    from raydsinfer.checkpoint import DeepSpeedCheckpoint


@dataclass(frozen=True, kw_only=True)
class GangShape:
    """Ranks and gangs.

    Args:
        num_gangs: Gangs from the start.
        max_gangs: Gangs at most.
        num_ranks: Ranks of each, the tensor parallel size.
        use_gpu: Whether a rank is a GPU, or a CPU.
        placement_strategy: Ray's word for where bundles go.
        accelerator_type: Ray's name of the GPU that is wanted; None for any.
    """

    num_gangs: int = 1
    max_gangs: int = 1
    num_ranks: int = 1
    use_gpu: bool = True
    placement_strategy: str = "PACK"
    accelerator_type: str | None = None

    @property
    def num_cpus(self) -> int:
        """CPUs that all of it takes, one for reading included."""
        return self.num_gangs * self.num_ranks + 1

    def scaling_config(self) -> ScalingConfig:
        """Ray's form of one gang."""
        from ray.train import ScalingConfig

        return ScalingConfig(
            num_workers=self.num_ranks,
            use_gpu=self.use_gpu,
            placement_strategy=self.placement_strategy,
            accelerator_type=self.accelerator_type,
        )

    def __str__(self) -> str:
        gangs = f"{self.num_gangs}" if self.num_gangs == self.max_gangs else f"{self.num_gangs} to {self.max_gangs}"
        noun = "gang" if self.max_gangs == 1 else "gangs"
        device = "GPU" if self.use_gpu else "CPU"
        return f"{gangs} {noun} of {self.num_ranks} {device} rank{'s' if self.num_ranks > 1 else ''}"


def gang_shape(
    *,
    num_worker_groups: int,
    max_worker_groups: int | None,
    num_gpus: int | None,
    num_cpu_ranks: int | None,
    placement_strategy: str = "PACK",
    accelerator_type: str | None = None,
) -> GangShape:
    """The shape that the flags ask for: one GPU where nothing is said.

    Raises:
        InvalidSettingError: Both kinds of ranks were asked for, or a number is below 1.
    """
    if num_gpus is not None and num_cpu_ranks is not None:
        raise InvalidSettingError(
            name="--num-cpu-ranks-per-worker-group",
            value=num_cpu_ranks,
            expected="to stand without --num-gpus-per-worker-group",
            hint="The ranks of a gang are GPUs or CPUs.",
        )
    num_ranks = num_cpu_ranks if num_cpu_ranks is not None else (num_gpus if num_gpus is not None else 1)
    max_gangs = num_worker_groups if max_worker_groups is None else max_worker_groups
    strategies = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
    checks = [
        ("--num-worker-groups", num_worker_groups, num_worker_groups >= 1, "1 or more"),
        ("--max-worker-groups", max_gangs, max_gangs >= num_worker_groups, "at least --num-worker-groups"),
        ("ranks of a worker group", num_ranks, num_ranks >= 1, "1 or more"),
        (
            "--placement-strategy",
            placement_strategy,
            placement_strategy in strategies,
            f"one of {', '.join(strategies)}",
        ),
    ]
    for name, value, fine, expected in checks:
        if not fine:
            raise InvalidSettingError(name=name, value=value, expected=expected)
    return GangShape(
        num_gangs=num_worker_groups,
        max_gangs=max_gangs,
        num_ranks=num_ranks,
        use_gpu=num_cpu_ranks is None,
        placement_strategy=placement_strategy,
        accelerator_type=accelerator_type,
    )


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
        shape: Ranks and gangs.
        batch_size: Rows of a call to a gang.
        address: Ray address.
        overwrite: Whether OUTPUT may be replaced.
        debug: Whether to show logs.
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
    shape: GangShape
    batch_size: int
    address: str | None
    overwrite: bool
    debug: bool

    def checkpoint(self) -> DeepSpeedCheckpoint:
        """The model, with the settings that were saved with it and those that the user gave on top.

        Raises:
            CheckpointError: There is no such model, or its saved settings cannot be read.
            ConfigurationError: A setting is wrong.
        """
        from raydsinfer.deepspeed_predictor import DeepSpeedPredictor

        checkpoint = self._checkpoint()
        DeepSpeedPredictor.read_settings(checkpoint.spec.config, self.generation_said)
        return checkpoint

    def _checkpoint(self) -> DeepSpeedCheckpoint:
        from raydsinfer.checkpoint import DeepSpeedCheckpoint

        if self.engine_said.get("engine") == "echo":
            return DeepSpeedCheckpoint.from_pretrained(self.model, EngineConfig(**self.engine_said))
        saved = DeepSpeedCheckpoint.from_pretrained(self.model)
        if not self.engine_said:
            return saved
        return DeepSpeedCheckpoint.from_pretrained(self.model, saved.spec.config.replaced(self.engine_said))

    def kept(self, rows: Input) -> list[str]:
        """Input columns that the output has too.

        Raises:
            MissingColumnError: A column is not in the input.
            InvalidSettingError: A kept column would overwrite an output column.
        """
        available = list(rows.types)
        if not available:  # an empty JSON file names no columns
            return []
        self.columns.choose(available, None, self.keep_columns)
        if self.keep_columns is not None:
            return kept_names(self.keep_columns, self.generation)
        return [name for name in available if name not in columns_of_call(self.generation)]


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
    shape: GangShape,
    batch_size: int,
    address: str | None,
    overwrite: bool,
    debug: bool,
) -> Job:
    """Check the flags. Nothing is read or started.

    Raises:
        ConfigurationError: A setting is wrong.
        OutputError: OUTPUT does not say how to write.
    """
    if batch_size < 1:
        raise InvalidSettingError(name="--batch-size", value=batch_size, expected="1 or more")
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
        shape=shape,
        batch_size=batch_size,
        address=address,
        overwrite=overwrite,
        debug=debug,
    )
