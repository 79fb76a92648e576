"""Makes this rank's part of a model: built on meta or whole, given to DeepSpeed, filled, adapted."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raydsinfer.checkpoints.sources.fetch import cache_directory
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.config import EngineConfig
from raydsinfer.engines import deepspeed_setup
from raydsinfer.engines import model as models
from raydsinfer.engines.account import Account
from raydsinfer.engines.alibi_mask import always_mask
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.copying import Copier, reader_threads
from raydsinfer.engines.deepspeed_fill import Filler, fill_autotp, fill_injected, ignorable_names
from raydsinfer.engines.deepspeed_int8 import fill_int8, hold_int8, sliced_as_int8
from raydsinfer.engines.deepspeed_kernels import adapters
from raydsinfer.engines.deepspeed_kernels.injected_layer import injected_layers
from raydsinfer.engines.deepspeed_presharded import filled_from_presharded
from raydsinfer.engines.families import check_stored_form
from raydsinfer.engines.int8.replace import replace_linears
from raydsinfer.engines.meter import Meter


def sharded_model(
    directory: Path,
    model_config: Any,
    config: EngineConfig,
    context: RankContext,
    *,
    dtype: torch.dtype,
    kernels: bool,
    meter: Meter,
) -> Any:
    """A transformers model whose layers DeepSpeed has sliced over the ranks, or replaced by fused ones.

    Args:
        directory: Where the weights are.
        model_config: The model's `transformers` configuration.
        config: Inference settings.
        context: Where this rank stands; DeepSpeed is prepared.
        dtype: Of weights and activations; of activations only, where the settings ask for int8 weights.
        kernels: Whether to replace the layers by DeepSpeed's fused ones.
        meter: Counts the bytes that are filled.

    Raises:
        CheckpointError: The weights are missing, unreadable, or do not fit the model.
        UnsupportedError: DeepSpeed wrote the weights for its kernels, or transformers would convert them.
        EngineError: DeepSpeed failed.
    """
    if kernels:
        # The kernels want an additive mask, which transformers makes for this implementation only.
        model_config._attn_implementation = "eager"
    if config.use_meta_tensor:
        model = _filled(directory, model_config, config, context, dtype=dtype, kernels=kernels, meter=meter)
    else:
        model = models.load_whole(directory, model_config, dtype, trust_remote_code=config.trust_remote_code)
        buffers = models.copy_buffers(model)
        model = replaced(model, config, context, dtype, kernels=kernels)
        if config.dtype == "int8":
            replace_linears(model, sliced_as_int8, dtype, device=context.device, fill=True)
            model.to(context.device)
        models.restore_buffers(model, buffers, context.device)
    if kernels:
        adapters.adapt(model, model_config, on_cpu=context.device == "cpu")
    elif model_config.model_type == "bloom":
        always_mask(model)
    return model


def _filled(
    directory: Path,
    model_config: Any,
    config: EngineConfig,
    context: RankContext,
    *,
    dtype: torch.dtype,
    kernels: bool,
    meter: Meter,
) -> Any:
    """A model that was built without memory, replaced by DeepSpeed, and then filled by slices."""
    description, scratch = describe(directory), cache_directory(config.hf_home) / "converted"
    if description.form == "deepspeed":
        check_stored_form(description, kernels=kernels)
        model = models.build_meta(model_config, dtype, trust_remote_code=config.trust_remote_code)
        replace = partial(replaced, config=config, context=context, dtype=dtype, kernels=True)
        return filled_from_presharded(description, model, context, replace=replace, scratch=scratch, meter=meter)
    with ExitStack() as stack:
        # Before the model is built: its buffers are pinned meanwhile.
        copier = stack.enter_context(Copier(context.device, reader_threads(context.local_world_size), meter.add))
        rank, tp_size = context.world_rank, context.world_size
        reader = stack.enter_context(TensorReader(description, rank=rank, tp_size=tp_size, scratch=scratch))
        model = models.build_meta(model_config, dtype, trust_remote_code=config.trust_remote_code)
        names = models.tensor_names(model, reader, str(directory))
        tied = models.tied_names(model)
        account = Account(str(directory), names, tied)
        shapes, buffers = models.parameter_shapes(model), models.copy_buffers(model)
        # Buffers that are computed are not stored; one that is stored may have been trained.
        buffers |= {name: reader.read(names[name]).clone() for name in models.stored_buffers(model) if name in names}
        model = replaced(model, config, context, dtype, kernels=kernels)
        if config.dtype == "int8":
            slices = hold_int8(model, shapes, rank, dtype=dtype, device=context.device)
        models.tie_again(model, tied)
        filler = Filler(
            reader=reader, account=account, shapes=shapes, copier=copier, begin=partial(meter.start, "weights")
        )
        if kernels:
            fill_injected(model, injected_layers(model), filler, rank, tp_size)
        elif config.dtype == "int8":
            fill_int8(model, filler, slices, context.device)
        else:
            fill_autotp(model, filler, rank)
        copier.finish()
        meter.add(0)  # all of it has arrived now
        account.close(ignorable_names(model, buffers))
    models.restore_buffers(model, buffers, context.device)
    return model


def replaced(model: Any, config: EngineConfig, context: RankContext, dtype: torch.dtype, *, kernels: bool) -> Any:
    """A transformers model after DeepSpeed replaced its layers; not filled, if it is on meta.

    Args:
        model: The model.
        config: Inference settings.
        context: Where this rank stands; DeepSpeed is prepared.
        dtype: Of weights and activations.
        kernels: Whether to replace the layers by DeepSpeed's fused ones.

    Raises:
        UnsupportedError: DeepSpeed's AutoTP does not know the model.
        EngineError: DeepSpeed failed.
    """
    if kernels:
        adapters.make_ready(model)
    with adapters.replacing(model) if kernels else nullcontext():
        module = deepspeed_setup.init_inference(
            model, context, dtype=dtype, kernels=kernels, max_tokens=config.max_tokens, stay=config.dtype == "int8"
        ).module
    if kernels:
        adapters.require_all_replaced(module)
    return module
