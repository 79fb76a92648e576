"""The forms that a reshard writes: how each is planned, written, and said in an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from raydsinfer.checkpoints.resharding.fused import FusedRules
from raydsinfer.checkpoints.resharding.indices import ranks_index, write_layers_index
from raydsinfer.checkpoints.resharding.manifest import Settings
from raydsinfer.checkpoints.resharding.pickle_plan import plan_pickles, write_pickles_index
from raydsinfer.checkpoints.resharding.pickle_writer import PickleWriter
from raydsinfer.checkpoints.resharding.plan import CONVERTIBLE, OutputFile, Plan
from raydsinfer.checkpoints.resharding.planner import Wanted, plan_layers, plan_ranks
from raydsinfer.checkpoints.resharding.work import MakeWriter
from raydsinfer.checkpoints.resharding.writer import StripeWriter
from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.ranks_index import FileSum, write_ranks_index
from raydsinfer.errors import WeightsMismatchError

SliceRules: TypeAlias = Mapping[str, Sequence[Slice]]
Rules: TypeAlias = SliceRules | FusedRules


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is to be written, and how.

    Args:
        plan: The files.
        make_writer: Given the directory: makes what writes them there.
        write_index: Given the directory, where it will be in the end, and size and checksum of each file: writes
            the index.
    """

    plan: Plan[Any]
    make_writer: Callable[[Path], MakeWriter]
    write_index: Callable[[Path, Path, Mapping[str, FileSum]], object]


def chosen_form(
    description: Description, settings: Settings, rules: Callable[[], Rules] | None, origin: Mapping[str, Any]
) -> Form:
    """Decide which tensor goes where.

    Args:
        description: The source.
        settings: The form.
        rules: What the layout needs to know of the model; not called for ``layers``.
        origin: What to write about the source.

    Raises:
        InvalidSettingError: A layer is larger than a file may be, or the dtype has to be said.
        UnsupportedError: The dtype of the source is none that the layout can have.
        WeightsMismatchError: The model has no place for a tensor, so that nothing says how to cut it.
    """
    if settings.layout == "layers":
        return _layers(description, plan_layers(_wanted(description, settings), settings.max_shard_bytes))
    if rules is None:
        raise ValueError(f"layout {settings.layout!r} needs rules that say how to cut")
    known = rules()
    if isinstance(known, FusedRules):
        return _pickles(description, plan_pickles(known, description, settings), known)
    return _ranks(description, settings, known, origin)


def _layers(description: Description, plan: Plan[OutputFile]) -> Form:
    return Form(
        plan=plan,
        make_writer=lambda directory: partial(StripeWriter, description, directory),
        write_index=lambda directory, final, sums: write_layers_index(directory, plan),
    )


def _ranks(description: Description, settings: Settings, rules: SliceRules, origin: Mapping[str, Any]) -> Form:
    tensors, tp_size = _wanted(description, settings), settings.tp_size or 1
    unknown = sorted(tensor.name for tensor in tensors if tensor.name not in rules)
    if unknown:
        raise WeightsMismatchError(
            path=str(description.directory),
            nothing_took=unknown,
            hint="Only tensors that config.json's model knows can be cut for ranks.",
        )
    plan = plan_ranks(tensors, rules, tp_size, settings.max_shard_bytes)
    return Form(
        plan=plan,
        make_writer=lambda directory: partial(StripeWriter, description, directory),
        write_index=lambda directory, final, sums: write_ranks_index(
            directory, ranks_index(plan, description, tp_size, sums, origin)
        ),
    )


def _pickles(description: Description, plan: Plan[Any], rules: FusedRules) -> Form:
    return Form(
        plan=plan,
        make_writer=lambda directory: partial(PickleWriter, description, directory),
        write_index=lambda directory, final, sums: write_pickles_index(directory, final, plan, rules),
    )


def _wanted(description: Description, settings: Settings) -> list[Wanted]:
    return [
        Wanted(
            name=tensor.name,
            dtype=settings.dtype if settings.dtype and tensor.dtype in CONVERTIBLE else tensor.dtype,
            shape=tensor.shape,
        )
        for tensor in description.tensors.values()
    ]
