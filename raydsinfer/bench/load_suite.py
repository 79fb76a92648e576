"""The cases of `raydsinfer bench load`: which checkpoints they need, in which order they run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raydsinfer.bench.load import LoadCase, LoadResult, measure
from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.bench.shapes import shape
from raydsinfer.bench.stored import stored_model
from raydsinfer.engines.resharding import checked_settings, reshard_directory

Form = Literal["safetensors", "bin", "ranks", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class LoadSuite:
    """What to measure.

    Args:
        shape: Name of a model's sizes.
        num_layers: Another number of layers than it has.
        tp_size: Number of ranks, on this machine.
        device: ``cpu`` or ``cuda``.
        kernel_inject: Whether with DeepSpeed's fused layers.
        forms: Of the weights; ``deepspeed`` is DeepSpeed's own loader on the ``bin`` files.
        directory: Where the checkpoints are written, and found if they are there.
        same_layers: Whether the random layers are all the same, which is faster to write.
        generate_rows: Rows of a batch to generate twice after loading; 0 for none.
        cold: Whether to drop the files from the page cache before each load.
        timeout_s: Seconds for one case.
    """

    shape: str
    tp_size: int
    device: str
    directory: Path
    num_layers: int | None = None
    kernel_inject: bool = False
    forms: tuple[Form, ...] = ("safetensors",)
    same_layers: bool = False
    generate_rows: int = 0
    cold: bool = False
    timeout_s: float = 900.0

    def run(self, tell: Callable[[str], None]) -> Iterator[tuple[LoadCase, list[LoadResult]]]:
        """Measure case after case, each in processes of its own.

        Args:
            tell: Gets a line of words about what is done now.

        Raises:
            WorkerGroupError: A rank failed.
            InvalidSettingError: There is no such shape.
            OutputError: There is no place for the weights.
        """
        for form in self.forms:
            model = self._checkpoint(form, tell)
            case = LoadCase(
                name=f"{self.shape} {form}",
                model=str(model),
                loader="deepspeed" if form == "deepspeed" else "raydsinfer",
                kernel_inject=self.kernel_inject,
                dtype="float32" if self.device == "cpu" else "float16",  # DeepSpeed has no float16 on CPUs
                generate_rows=0 if form == "deepspeed" else self.generate_rows,
                cold=self.cold,
            )
            tell(f"loading {model} on {self.tp_size} ranks")
            yield case, run_on_ranks(self.tp_size, measure, case, timeout_s=self.timeout_s, device=self.device)

    def remove(self) -> None:
        """Remove the checkpoints of this suite."""
        for form in self.forms:
            shutil.rmtree(self._path(form), ignore_errors=True)
        if "ranks" in self.forms:
            shutil.rmtree(self._path("safetensors"), ignore_errors=True)

    def _path(self, form: Form) -> Path:
        num_layers = shape(self.shape, self.num_layers)["num_hidden_layers"]
        stem = f"{self.shape}-{num_layers}{'-same' if self.same_layers else ''}"
        kind = {"ranks": f"tp{self.tp_size}", "deepspeed": "bin"}.get(form, form)
        return self.directory / f"{stem}-{kind}"

    def _checkpoint(self, form: Form, tell: Callable[[str], None]) -> Path:
        target = self._path(form)
        if form == "ranks":
            source = self._checkpoint("safetensors", tell)
            tell(f"resharding to {target}")
            settings = checked_settings("ranks", self.tp_size, None, "5GB")
            reshard_directory(source, target, settings, origin={"name": source.name})
            return target
        stored: Literal["safetensors", "bin"] = "safetensors" if form == "safetensors" else "bin"
        config = shape(self.shape, self.num_layers)
        return stored_model(target, config, stored, tell, same_layers=self.same_layers)
