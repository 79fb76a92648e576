"""Disk for copies of the weights in another form, which settings ask a gang to write at its start. Pure."""

from __future__ import annotations

from raydsinfer.checkpoints.resharding.work import MOST_FILES_AT_ONCE, most_scratch_bytes
from raydsinfer.checkpoints.sizes import parse_size
from raydsinfer.config import EngineConfig
from raydsinfer.engines.resharding import DEFAULT_SHARD_SIZE
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.shares import parameters_outside_layers


def copies_bytes(model: ModelFacts, config: EngineConfig, num_ranks: int, *, kernels: bool) -> int:
    """What the copies of a node take where it is most: while they are written.

    Args:
        model: The model.
        config: Inference settings.
        num_ranks: Of a gang.
        kernels: Whether the gang runs on DeepSpeed's kernels, whose form `save_mp_checkpoint_path` has then.
    """
    stored = model.stored.num_bytes if model.stored else 0
    layers = stored if config.reshard_checkpoint_path is not None else 0
    if config.save_mp_checkpoint_path is None:
        return layers
    return layers + (_for_kernels(model, stored, num_ranks) if kernels else stored)


def _for_kernels(model: ModelFacts, stored: int, num_ranks: int) -> int:
    """DeepSpeed's form, and what the largest files are put together in; as many bytes a parameter as there are now."""
    item = stored / model.num_parameters
    outside = parameters_outside_layers(model.built)
    part = round(item * (model.num_on_rank("kernel_inject", num_ranks) - outside))
    largest = parse_size("max_shard_size", DEFAULT_SHARD_SIZE)
    full, rest = divmod(part, largest)
    files = [round(item * outside), *([*[largest] * full, rest] * num_ranks)]
    return sum(files) + most_scratch_bytes(files, MOST_FILES_AT_ONCE)
