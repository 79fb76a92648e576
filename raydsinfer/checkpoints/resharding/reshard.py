"""Weights in another form: described, planned, streamed file by file, verified, and moved into place as a whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.resharding.extras import copy_extras, extra_files, read_model_config
from raydsinfer.checkpoints.resharding.forms import Form, Rules, chosen_form
from raydsinfer.checkpoints.resharding.identity import Identity, identify
from raydsinfer.checkpoints.resharding.journal import Journal
from raydsinfer.checkpoints.resharding.manifest import Layout, Manifest, Settings, write_manifest
from raydsinfer.checkpoints.resharding.plan import CONVERTIBLE, Plan
from raydsinfer.checkpoints.resharding.target import Target
from raydsinfer.checkpoints.resharding.work import most_scratch_bytes, write_plan
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.pickles import can_be_mapped
from raydsinfer.errors import CheckpointError, InvalidSettingError, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class ReshardReport:
    """What `reshard` did.

    Args:
        target: The directory that is there now.
        layout: ``layers``, ``ranks`` or ``deepspeed``.
        tp_size: Number of ranks that it was cut for; None for ``layers``.
        num_tensors: Tensors of the source.
        num_files: Files of weights.
        num_bytes: Bytes of these files.
        num_resumed: How many of them an earlier, interrupted run had finished.
        already_there: Whether the target was whole before, so that nothing was written.
        seconds: How long it took.
    """

    target: Path
    layout: Layout
    tp_size: int | None
    num_tensors: int
    num_files: int
    num_bytes: int
    num_resumed: int
    already_there: bool
    seconds: float


def reshard_files(
    source: Path,
    target: Path,
    settings: Settings,
    *,
    origin: Mapping[str, Any],
    rules: Callable[[], Rules] | None = None,
    overwrite: bool = False,
    any_size: bool = False,
    setting: str = "target",
    on_progress: OnProgress | None = None,
) -> ReshardReport:
    """Write the weights of a directory in another form into another directory.

    Args:
        source: The model's directory.
        target: The directory to make.
        settings: The form.
        origin: What to write about the source into the target, for people; no secrets.
        rules: For ``ranks``: gives which part of each tensor each rank keeps; for ``deepspeed``: what its fused
            tensors are made of. Called only if needed.
        overwrite: Whether an older reshard at the target may be replaced.
        any_size: Whether a target of the same layout will do whatever its dtype and the size of its files.
        setting: What errors call the target.
        on_progress: Called with bytes done and bytes in all, from several threads but never at once.

    Raises:
        ConfigurationError: Settings that cannot be, or a target inside the source.
        CheckpointError: The source is wrong, or does not fit the settings.
        OutputError: The target cannot be written.
    """
    started = time.monotonic()
    place = Target(target.expanduser().resolve(), setting=setting)
    place.check_apart(source)
    description = describe(source)
    _check_convertible(description, settings.dtype)
    extras = extra_files(source)
    job = Job(
        description=description,
        settings=settings,
        extras=tuple(extras),
        identity=identify(source, [*description.files, *extras]),
        origin=origin,
    )
    with place.locked():
        done = None if overwrite else place.finished()
        if done is not None and done.serves(settings, job.identity, any_size=any_size):
            return _report(place.path, done, started, already_there=True)
        place.check_free(overwrite=overwrite)
        form = chosen_form(description, settings, rules, origin)
        manifest, num_resumed = _build(place, form, job, on_progress)
    return _report(place.path, manifest, started, num_resumed=num_resumed)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made of what.

    Args:
        description: The source.
        settings: The form.
        extras: Names of small files that come along.
        identity: What the source was when it was described.
        origin: What to write about it.
    """

    description: Description
    settings: Settings
    extras: tuple[str, ...]
    identity: Identity
    origin: Mapping[str, Any]

    def key(self, plan: Plan[Any]) -> str:
        """Equal only if the same files would come out."""
        parts = [asdict(self.settings), asdict(self.identity), list(self.extras), plan.as_text()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if the source is not what it was."""
        source = self.description.directory
        if identify(source, [*self.description.files, *self.extras]) != self.identity:
            raise CheckpointError(
                path=str(source), reason="it changed while it was read", hint="Run again when it is complete."
            )


def _build(place: Target, form: Form, job: Job, on_progress: OnProgress | None) -> tuple[Manifest, int]:
    """Fill the partial directory and move it into place; also says how many files an earlier run had finished."""
    description, settings, plan = job.description, job.settings, form.plan
    needed = _needed_bytes(plan, job)
    with place.typed_errors(needed):
        journal = Journal(place.partial, job.key(plan))
        place.check_space(needed - journal.tidy())
        sums, num_resumed = write_plan(plan, form.make_writer(place.partial), place.partial, journal, on_progress)
        journal.tidy()
        job.check_unchanged()
        copy_extras(description.directory, place.partial, job.extras, settings.dtype)
        form.write_index(place.partial, place.path, sums)
        manifest = Manifest(
            settings=settings,
            source=job.identity,
            origin=job.origin,
            files=sums,
            extras=job.extras,
            num_tensors=len(description.tensors),
        )
        write_manifest(place.partial, manifest)
        place.commit()
        journal.remove_from(place.path)
    return manifest, num_resumed


def _needed_bytes(plan: Plan[Any], job: Job) -> int:
    """Space that is taken where most of it is: files, what they are put together in, copies, and what comes along."""
    source = job.description.directory
    extras = sum((source / name).stat().st_size for name in job.extras)
    scratch = most_scratch_bytes(file.scratch_bytes for file in plan.files)
    return plan.num_bytes + scratch + _unpacked_bytes(job.description) + extras


def _unpacked_bytes(description: Description) -> int:
    """Space for copies of pickles that cannot be mapped as they are."""
    if description.form != "bin":
        return 0
    sizes = description.files.items()
    return sum(num_bytes for name, num_bytes in sizes if not can_be_mapped(description.directory / name))


def _check_convertible(description: Description, dtype: str | None) -> None:
    if description.form == "deepspeed":
        raise UnsupportedError(
            what=f"resharding {description.directory}",
            why="only DeepSpeed knows which part of a tensor each of its presharded files holds",
            instead="Reshard the weights that it was made from.",
        )
    if dtype is None:
        return
    if dtype not in CONVERTIBLE[:3]:
        raise InvalidSettingError(name="dtype", value=dtype, expected="float16, bfloat16 or float32")
    quantised = any(tensor.dtype.startswith("float8") for tensor in description.tensors.values())
    if quantised or "quantization_config" in read_model_config(description.directory):
        raise UnsupportedError(
            what=f"dtype={dtype!r} for the quantised weights in {description.directory}",
            why="their values mean nothing without the scales that they were stored with",
            instead="Leave dtype out: the weights are copied as they are.",
        )


def _report(
    target: Path, manifest: Manifest, started: float, *, num_resumed: int = 0, already_there: bool = False
) -> ReshardReport:
    return ReshardReport(
        target=target,
        layout=manifest.settings.layout,
        tp_size=manifest.settings.tp_size,
        num_tensors=manifest.num_tensors,
        num_files=len(manifest.files),
        num_bytes=manifest.num_bytes,
        num_resumed=num_resumed,
        already_there=already_there,
        seconds=time.monotonic() - started,
    )
