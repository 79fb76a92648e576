"""The adapters by family, and the steps in which a model is led to DeepSpeed's kernels and back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from deepspeed.ops.transformer.inference.ds_attention import DeepSpeedSelfAttention
from deepspeed.ops.transformer.inference.ds_mlp import DeepSpeedMLP
from torch import nn

from raydsinfer.engines import model as models
from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.bloom import Bloom
from raydsinfer.engines.deepspeed_kernels.gpt2 import GPT2
from raydsinfer.engines.deepspeed_kernels.gpt_neo import GPTNeo
from raydsinfer.engines.deepspeed_kernels.gpt_neox import GPTNeoX
from raydsinfer.engines.deepspeed_kernels.gptj import GPTJ
from raydsinfer.engines.deepspeed_kernels.injected_layer import injected_layers
from raydsinfer.engines.deepspeed_kernels.llama import Llama
from raydsinfer.engines.deepspeed_kernels.opt import OPT
from raydsinfer.errors import EngineError

# By `model_type` of config.json; `families.FAMILIES` says the same without importing DeepSpeed.
ADAPTERS: dict[str, Adapter] = {
    "opt": OPT(),
    "gptj": GPTJ(),
    "gpt_neox": GPTNeoX(),
    "gpt_neo": GPTNeo(),
    "gpt2": GPT2(),
    "llama": Llama(),
    "bloom": Bloom(),
}


def make_ready(model: Any) -> None:
    """Before DeepSpeed replaces the layers of a transformers model: give its policy what it reads."""
    adapter = ADAPTERS[model.config.model_type]
    _reserve_nothing_to_join_weights_in()
    for path in models.layer_paths(model):
        layer = model.get_submodule(path)
        if not adapter.takes_meta and next(layer.parameters()).is_meta:
            # Memory that nobody writes to is not taken from the machine.
            layer.to_empty(device="cpu")
        adapter.before(layer, model.config)


def _reserve_nothing_to_join_weights_in() -> None:
    """Keep the first fused layer from taking device memory for weights that are joined at each call.

    Layers join query, key and value, and the matrices of a gated MLP, only where they were made without parameters
    of their own (`set_empty_params`, for training under ZeRO 3). Those for inference hold them joined, and give the
    kernels these parameters. With nothing to join in, a layer that did join would raise an IndexError.
    """
    DeepSpeedSelfAttention._qkv_buffers = [torch.empty(0), torch.empty(0)]
    DeepSpeedMLP._inter_w_buffers = [torch.empty(0), torch.empty(0)]


def replacing(model: Any) -> AbstractContextManager[None]:
    """Entered while DeepSpeed replaces the layers of a transformers model."""
    return ADAPTERS[model.config.model_type].replacing()


def require_all_replaced(model: Any) -> None:
    """After DeepSpeed replaced the layers.

    Raises:
        EngineError: It left some, or all.
    """
    replaced, expected = len(injected_layers(model)), model.config.num_hidden_layers
    if replaced != expected:
        raise EngineError(
            doing="kernel injection",
            reason=f"DeepSpeed's policy for {model.config.model_type} matched {replaced} of {expected} decoder layers",
            hint="Use kernel_inject=False (automatic tensor parallelism).",
        )


def adapt(model: nn.Module, model_config: Any, *, on_cpu: bool) -> None:
    """Put the family's adapter round each fused layer of a model that is filled.

    Args:
        model: Whose layers DeepSpeed has replaced.
        model_config: The model's `transformers` configuration.
        on_cpu: Whether DeepSpeed's PyTorch versions of the kernels run, which have to be put right.
    """
    adapter = ADAPTERS[model_config.model_type]
    layers = injected_layers(model)
    for index, (name, layer) in enumerate(layers):
        adapter.after(layer, index, model_config)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter.layer(layer, last=index == len(layers) - 1))
    if on_cpu:
        from raydsinfer.engines.deepspeed_kernels.cpu_ops import repair

        repair(model, adapter.activation(model_config))
