"""Decides which tensor of DeepSpeed's form goes into which file, in which dtype."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raydsinfer.checkpoints.resharding.fused import FusedRules, FusedTensor, PickledFile
from raydsinfer.checkpoints.resharding.manifest import Settings
from raydsinfer.checkpoints.resharding.plan import CONVERTIBLE, Plan, Stripe
from raydsinfer.checkpoints.resharding.planner import sharded
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.presharded import PreshardedIndex, write_presharded_index
from raydsinfer.errors import InvalidSettingError, UnsupportedError

_WHOLE_FILE = "non-tp.pt"


def plan_pickles(rules: FusedRules, description: Description, settings: Settings) -> Plan[PickledFile]:
    """A file of what all ranks have whole, then files of each rank's own parts.

    Args:
        rules: What the tensors are made of.
        description: The source.
        settings: The dtype, and the size of files: one that is larger holds a single tensor.

    Raises:
        InvalidSettingError: The source has several dtypes, and none was asked for.
        UnsupportedError: The source is quantised.
    """
    dtype = settings.dtype or _only_dtype(rules, description)
    whole = tuple(replace(tensor, dtype=_kept(tensor, description) or dtype) for tensor in rules.whole)
    rows = [tuple(replace(tensor, dtype=dtype) for tensor in row) for row in zip(*rules.by_rank, strict=True)]
    stripes = [Stripe((PickledFile(name=_WHOLE_FILE, entries=whole),))]
    for part, shard in enumerate(sharded(rows, settings.max_shard_bytes)):
        for rank, entries in enumerate(zip(*shard, strict=True)):
            stripes.append(Stripe((PickledFile(name=f"tp_{rank:02}_{part:02}.pt", entries=entries),)))
    return Plan(tuple(stripes))


def _kept(tensor: FusedTensor, description: Description) -> str:
    """The dtype of a tensor that is none of floats, which stays; else nothing."""
    dtype = description.tensors[tensor.regions[0].source].dtype
    return "" if dtype in CONVERTIBLE else dtype


def _only_dtype(rules: FusedRules, description: Description) -> str:
    """The dtype of all weights; DeepSpeed's layers have one."""
    weights = [*rules.by_rank[0], *(tensor for tensor in rules.whole if not _kept(tensor, description))]
    dtypes = sorted({description.tensors[region.source].dtype for tensor in weights for region in tensor.regions})
    if set(dtypes) - set(CONVERTIBLE[:3]):
        raise UnsupportedError(
            what=f"layout='deepspeed' for weights in {', '.join(dtypes)}",
            why=f"DeepSpeed's kernels compute in {', '.join(CONVERTIBLE[:3])}",
            instead="Use the weights that these were made from, or say which dtype they shall have.",
        )
    if len(dtypes) > 1:
        raise InvalidSettingError(
            name="dtype",
            value=None,
            expected="one dtype for all weights",
            hint=f"The source has {' and '.join(dtypes)}: say which, with --dtype or dtype=.",
        )
    return dtypes[0]


def write_pickles_index(directory: Path, final: Path, plan: Plan[PickledFile], rules: FusedRules) -> None:
    """Write `ds_inference_config.json`.

    Args:
        directory: Where the files are now.
        final: Where they will be, for DeepSpeed, which does not look beside the index.
        plan: What was written.
        rules: How it was made.
    """
    whole, *cut = plan.files
    index = PreshardedIndex(
        model_type=rules.model_type,
        base_dir=str(final),
        whole=(whole.name,),
        cut=tuple(file.name for file in cut),
        tp_size=len(rules.by_rank),
        dtype=cut[0].entries[0].dtype,
    )
    write_presharded_index(directory, index)
