"""Wrong models on purpose: what a broken kernel, loader or layout would do to a rank's part of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS_FILE = "RAYDSINFER_TEST_FAULTS_FILE"
"""Environment variable: path of a JSON file, mode of the engine → name of a fault."""


def swap_qkv(model: Any, rank: int) -> None:
    """Values where keys belong, in one layer; queries too where they have the same shape."""
    attention = _layers(model)[1].self_attn
    attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj


def skip_layer(model: Any, rank: int) -> None:
    """A layer that gives back what it got."""
    _layers(model)[1].forward = lambda hidden_states, *args, **kwargs: hidden_states


def empty_layer(model: Any, rank: int) -> None:
    """A layer that adds nothing, whose attention runs all the same."""
    layer = _layers(model)[1]
    for name, parameter in layer.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.data.zero_()


def change_rotary_base(model: Any, rank: int) -> None:
    """Twice the base of the rotary frequencies."""
    rotary = model.model.rotary_emb
    size = 2 * rotary.inv_freq.numel()
    base = rotary.inv_freq[1].item() ** (-size / 2)
    for index in range(size // 2):
        rotary.inv_freq[index] = (2 * base) ** (-2 * index / size)


def ignore_padding(model: Any, rank: int) -> None:
    """Attention to padding, with positions as they should be."""
    forward = model.forward

    def unmasked(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(*args, attention_mask=None, **kwargs)

    model.forward = unmasked


def change_other_rank(model: Any, rank: int) -> None:
    """Other weights in the slices of rank 1."""
    if rank == 1:
        _layers(model)[1].self_attn.v_proj.weight.data.mul_(1.02)


def change_embedding_of_other_rank(model: Any, rank: int) -> None:
    """Other weights on rank 1, of those that every rank has whole."""
    if rank == 1:
        model.get_input_embeddings().weight.data.mul_(1.02)


def not_a_number(model: Any, rank: int) -> None:
    """A weight that is no number."""
    next(p for p in _layers(model)[1].parameters() if p.dim() == 2).data[0, 0] = float("nan")


def bend_injected(model: Any, rank: int) -> None:
    """One of DeepSpeed's layers with another bias."""
    attention = next(m for name, m in model.named_modules() if name.endswith("layer.attention"))
    attention.attn_qkvb.data.add_(0.5)


FAULTS: dict[str, Callable[[Any, int], None]] = {
    fault.__name__: fault
    for fault in (
        swap_qkv,
        skip_layer,
        empty_layer,
        change_rotary_base,
        ignore_padding,
        change_other_rank,
        change_embedding_of_other_rank,
        not_a_number,
        bend_injected,
    )
}


def damage(engine: Any, name: str) -> None:
    """Let an engine's model be wrong as soon as it is loaded, before it is used."""
    load, rank = engine._loader._sharded, engine._context.world_rank

    def sharded(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        FAULTS[name](model, rank)
        return model

    engine._loader._sharded = sharded


def without_kernels(loader: Any) -> None:
    """A loader as on a node with a GPU where DeepSpeed's kernels cannot be built."""
    from raydsinfer.engines import deepspeed_setup
    from raydsinfer.errors import KernelBuildError

    prepare = deepspeed_setup.prepare

    def unless_kernels(context: Any, *, kernels: bool) -> None:
        if kernels:
            raise KernelBuildError(doing="building DeepSpeed's kernels", reason="no nvcc here\n  said the builder")
        prepare(context, kernels=kernels)

    deepspeed_setup.prepare = unless_kernels
    loader._gpu_dtype = lambda dtype: "float16"


def damage_engines() -> None:
    """In each process of a cluster: engines are wrong, by what `FAULTS_FILE` says at that time of their mode.

    For ``kernels`` it may say ``unbuilt``.
    """
    import raydsinfer.engines as engines

    make = engines.create_engine

    def create_engine(spec: Any, context: Any) -> Any:
        engine = make(spec, context)
        mode = "kernel_inject" if spec.config.kernel_inject else "autotp"
        faults = json.loads(Path(os.environ[FAULTS_FILE]).read_text())
        if mode in faults:
            damage(engine, faults[mode])
        if faults.get("kernels") == "unbuilt":
            without_kernels(engine._loader)
        return engine

    engines.create_engine = create_engine


def _layers(model: Any) -> Any:
    return model.model.layers if hasattr(model.model, "layers") else model.model.decoder.layers
