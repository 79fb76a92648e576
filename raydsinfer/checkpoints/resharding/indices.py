"""Which file holds which tensor, as the readers of each layout want to be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.resharding.plan import Entry, OutputFile, Plan
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.ranks_index import FileSum, RankedTensor, RanksIndex


def write_layers_index(directory: Path, plan: Plan[OutputFile]) -> None:
    """Write the index that transformers and its relatives read."""
    entries = [(entry, file.name) for file in plan.files for entry in file.entries]
    index = {
        "metadata": {"total_size": sum(entry.num_bytes for entry, _ in entries)},
        "weight_map": {entry.name: name for entry, name in entries},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def ranks_index(
    plan: Plan[OutputFile],
    description: Description,
    tp_size: int,
    sums: Mapping[str, FileSum],
    origin: Mapping[str, Any],
) -> RanksIndex:
    """The index of the per-rank form.

    Args:
        plan: What was written.
        description: The source.
        tp_size: Number of ranks.
        sums: File name → size and checksum.
        origin: What to write about the source.
    """
    tensors: dict[str, RankedTensor] = {}
    shared: dict[str, str] = {}
    by_rank: tuple[dict[str, str], ...] = tuple({} for _ in range(tp_size))
    for stripe in plan.stripes:
        for row in zip(*(file.entries for file in stripe.files), strict=True):
            name = row[0].name
            tensors[name] = _ranked(row, description.tensors[name].shape)
            if tensors[name].shared:
                shared[name] = stripe.files[0].name
            else:
                for rank, file in enumerate(stripe.files):
                    by_rank[rank][name] = file.name
    return RanksIndex(
        tp_size=tp_size,
        tensors=tensors,
        files=sums,
        shared=shared,
        by_rank=by_rank,
        source=origin,
        tied=tuple(tuple(sorted(group)) for group in description.tied),
    )


def _ranked(row: tuple[Entry, ...], shape: tuple[int, ...]) -> RankedTensor:
    return RankedTensor.cut(dtype=row[0].dtype, shape=shape, slices=tuple(entry.part for entry in row))
