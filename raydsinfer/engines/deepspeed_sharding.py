"""Makes this rank's part of a model: built on meta or whole, given to DeepSpeed, filled, adapted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.weights import TensorReader, find_weights
from raydsinfer.config import EngineConfig
from raydsinfer.engines import deepspeed_injection as injection
from raydsinfer.engines import deepspeed_setup
from raydsinfer.engines import model as models
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.deepspeed_cpu_kernels import fix_activations
from raydsinfer.engines.deepspeed_fill import Filler, fill_autotp, fill_injected, ignorable_names
from raydsinfer.errors import EngineError


def sharded_model(
    directory: Path,
    model_config: Any,
    config: EngineConfig,
    context: RankContext,
    *,
    dtype: torch.dtype,
    kernels: bool,
) -> Any:
    """A transformers model whose layers DeepSpeed has sliced over the ranks, or replaced by fused ones.

    Args:
        directory: Where the weights are.
        model_config: The model's `transformers` configuration.
        config: Inference settings.
        context: Where this rank stands; DeepSpeed is prepared.
        dtype: Of weights and activations.
        kernels: Whether to replace the layers by DeepSpeed's fused ones.

    Raises:
        CheckpointError: The weights are missing, unreadable, or do not fit the model.
        EngineError: DeepSpeed failed.
    """
    if kernels:
        # The kernels want an additive mask, which transformers makes for this implementation only.
        model_config._attn_implementation = "eager"
    trust, path = config.trust_remote_code, str(directory)
    with ExitStack() as stack:
        filler = None
        if config.use_meta_tensor:
            reader = stack.enter_context(TensorReader(find_weights(directory)))
            model = models.build_meta(model_config, dtype, trust_remote_code=trust)
            names = models.tensor_names(model, reader, path)
            filler = Filler(reader, path, names, models.tied_names(model), dtype)
            buffers = models.copy_buffers(model)
            # Buffers that are computed are not stored; one that is stored may have been trained.
            buffers |= {name: reader.read(names[name]) for name in models.stored_buffers(model) if name in names}
        else:
            model = models.load_whole(directory, model_config, dtype, trust_remote_code=trust)
            buffers = models.copy_buffers(model)
        model = deepspeed_setup.init_inference(
            model, context, dtype=dtype, kernels=kernels, max_tokens=config.max_tokens
        ).module
        if filler is not None:
            _fill(model, filler, buffers, context, kernels=kernels)
    models.restore_buffers(model, buffers, context.device)
    if kernels:
        _adapt(model, context)
    return model


def _fill(model: nn.Module, filler: Filler, buffers: Iterable[str], context: RankContext, *, kernels: bool) -> None:
    if kernels:
        fill_injected(model, injection.injected_layers(model), filler, context)
    else:
        fill_autotp(model, filler)
    filler.finish(ignorable_names(model, buffers))


def _adapt(model: Any, context: RankContext) -> None:
    if injection.adapt(model) != model.config.num_hidden_layers:
        raise EngineError(doing="kernel injection", reason="DeepSpeed did not replace every decoder layer")
    if context.device == "cpu":
        fix_activations(model)
