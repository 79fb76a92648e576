"""What each rank of a gang keeps of each tensor of a checkpoint, and where: without a gang, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.resharding.fused import FusedRules
from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig
from raydsinfer.engines import deepspeed_setup
from raydsinfer.engines import model as models
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.families import check_autotp, choose_mode
from raydsinfer.errors import UnsupportedError


def slice_rules(directory: Path, world_size: int, *, trust_remote_code: bool = False) -> dict[str, tuple[Slice, ...]]:
    """What each rank of a gang keeps of each tensor of a checkpoint; reads no weights.

    Tensors outside of the decoder layers are kept whole: kernel injection does not slice them.
    Call it in a process of its own: DeepSpeed is started as if this were rank 0 of the gang, and keeps
    state of that.

    Args:
        directory: The checkpoint.
        world_size: Number of ranks.
        trust_remote_code: Whether Python code in the directory may run.

    Returns:
        Tensor name → slices by world rank.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        UnsupportedError: DeepSpeed's AutoTP does not know the model, or slices it in a way of its own.
    """
    model_config = models.read_config(directory, trust_remote_code=trust_remote_code)
    _require_slices(model_config, world_size)
    model = models.build_meta(model_config, torch.float32, trust_remote_code=trust_remote_code)
    stored = list(describe(directory).tensors)
    owner = {tensor: parameter for parameter, tensor in models.tensor_names(model, stored, str(directory)).items()}
    if world_size == 1:
        return dict.fromkeys(stored, (WHOLE,))
    shapes = models.parameter_shapes(model)
    layers = tuple(f"{path}." for path in models.layer_paths(model))
    model = _as_rank_0(model, world_size)
    from raydsinfer.engines.deepspeed_slices import autotp_slices  # imports DeepSpeed, which has to be told first

    by_rank = [autotp_slices(model, shapes, rank) for rank in range(world_size)]
    in_layers = {name: parameter for name, parameter in owner.items() if parameter.startswith(layers)}
    return {name: tuple(slices.get(in_layers.get(name, ""), WHOLE) for slices in by_rank) for name in stored}


def fused_rules(directory: Path, world_size: int, *, trust_remote_code: bool = False) -> FusedRules:
    """What DeepSpeed's fused layers are made of, for each rank of a gang; reads no weights.

    Call it in a process of its own, as `slice_rules`.

    Args:
        directory: The checkpoint.
        world_size: Number of ranks.
        trust_remote_code: Whether Python code in the directory may run.

    Raises:
        CheckpointError: The checkpoint cannot be read, or does not fit the model.
        UnsupportedError: There are no kernels for this model, or not for so many ranks.
        EngineError: DeepSpeed failed.
    """
    config = EngineConfig(kernel_inject=True, max_tokens=2, trust_remote_code=trust_remote_code)
    model_config = models.read_config(directory, trust_remote_code=trust_remote_code)
    choose_mode(config, model_config, world_size)
    model_config._attn_implementation = "eager"  # as where the layers are used
    model = models.build_meta(model_config, torch.float32, trust_remote_code=trust_remote_code)
    context = _fake_gang(world_size, kernels=True)
    from raydsinfer.engines.deepspeed_fused_rules import fused_rules_of  # imports DeepSpeed

    return fused_rules_of(model, describe(directory), config, context)


def _require_slices(model_config: Any, world_size: int) -> None:
    try:
        check_autotp(model_config, world_size)
    except UnsupportedError as error:
        what = f"cutting {model_config.model_type} for {world_size} ranks"
        raise UnsupportedError(what=what, why=error.why, instead="Use the model as it is, or fewer ranks.") from None


def _as_rank_0(model: nn.Module, world_size: int) -> nn.Module:
    """AutoTP's replacement of the layers, among ranks that do not exist."""
    context = _fake_gang(world_size, kernels=False)
    replaced: nn.Module = deepspeed_setup.init_inference(
        model, context, dtype=torch.float32, kernels=False, max_tokens=2
    ).module
    return replaced


def _fake_gang(world_size: int, *, kernels: bool) -> RankContext:
    """Rank 0 among ranks that do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    context = RankContext(world_size=world_size, local_world_size=world_size)
    deepspeed_setup.choose_accelerator(context)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    deepspeed_setup.prepare(context, kernels=kernels)
    return context
