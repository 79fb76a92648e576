"""How many of a model's parameters each rank of a gang holds, as DeepSpeed cuts the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

# DeepSpeed's `tp_grain_size` for inference: what is not cut by heads is cut at multiples of so many columns.
_GRAIN = 64

# What `get_shard_size` of DeepSpeed's tp_shard.py never cuts by heads.
_BY_GRAIN = ("mlp", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def parameters_by_rank(model: Any, mode: str, num_ranks: int) -> list[int]:
    """Parameters on each rank, by world rank.

    Attention is cut by key-value heads, other matrices of the repeated layers by heads or by blocks of columns, the
    output head (under AutoTP) by blocks of columns; kernels cut evenly, and repeat shared key-value heads. Embeddings
    and norms are whole on every rank. Biases are reckoned as whole, though some are cut. Checked against what engines
    report (tests/cluster/test_planning.py): exact for Llama, within a hundredth for OPT and GPT-NeoX.

    Args:
        model: A transformers model; its parameters need no memory.
        mode: How it would run.
        num_ranks: Tensor parallel size.
    """
    head = model.get_output_embeddings()
    layers = {name for name, _ in _of_repeated_layers(model)}
    held = [0.0] * num_ranks
    for name, parameter in model.named_parameters():  # a tied one once
        for rank, share in enumerate(_shares(name, parameter, name in layers, model.config, mode, num_ranks)):
            held[rank] += parameter.numel() * share
    if head is not None and mode == "autotp" and num_ranks > 1:
        tied = head.weight is model.get_input_embeddings().weight
        size = head.weight.shape[1]
        for rank, part in enumerate(_by_grain(size, num_ranks)):
            # A part of its own beside the embedding, or instead of the whole head.
            held[rank] += head.weight.numel() * (part / size - (0 if tied else 1))
    return [round(number) for number in held]


def parameters_outside_layers(model: Any) -> int:
    """Parameters that are not in the repeated layers: embeddings, the last norm, the output head; a tied one once."""
    layers = {name for name, _ in _of_repeated_layers(model)}
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in layers)


def quantised_by_rank(model: Any, mode: str, num_ranks: int) -> list[int]:
    """How many of the parameters on each rank ``dtype="int8"`` quantises: the matrices of the layers' linear layers.

    Args:
        model: A transformers model; its parameters need no memory.
        mode: How it would run.
        num_ranks: Tensor parallel size.
    """
    linear = {f"{path}.weight" for path, module in model.named_modules() if type(module) is nn.Linear}
    held = [0.0] * num_ranks
    for name, parameter in _of_repeated_layers(model):
        if name in linear:
            for rank, share in enumerate(_shares(name, parameter, True, model.config, mode, num_ranks)):
                held[rank] += parameter.numel() * share
    return [round(number) for number in held]


def kv_heads(config: Any) -> int:
    """Key-value heads, by which DeepSpeed cuts attention."""
    text = config.get_text_config()
    return int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)


def _shares(
    name: str, parameter: nn.Parameter, is_in_layer: bool, config: Any, mode: str, num_ranks: int
) -> list[float]:
    if not is_in_layer or parameter.dim() != 2:
        return [1.0] * num_ranks
    heads, size = kv_heads(config), max(parameter.shape)
    if mode == "kernel_inject":
        # The kernels have a key-value head for each query head: those that are shared are repeated.
        shared = name.endswith(("k_proj.weight", "v_proj.weight"))
        repeats = config.get_text_config().num_attention_heads // heads if shared else 1
        return [repeats / num_ranks] * num_ranks
    if num_ranks == 1:
        return [1.0]
    words = ".".join(name.split(".")[-3:-1])  # what DeepSpeed knows of the name
    if "att" in name or (size % heads == 0 and not any(word in words for word in _BY_GRAIN)):
        return [(heads // num_ranks + (rank < heads % num_ranks)) / heads for rank in range(num_ranks)]
    return [part / size for part in _by_grain(size, num_ranks)]


def _by_grain(size: int, num_ranks: int) -> list[int]:
    """As `get_shard_size` of DeepSpeed: whole grains, more of them on the first ranks, the rest on the last one."""
    grain = _GRAIN if size >= _GRAIN else 1
    grains, rest = divmod(size, grain)
    parts = [(grains // num_ranks + (rank < grains % num_ranks)) * grain for rank in range(num_ranks)]
    parts[-1] += rest
    return parts


def _of_repeated_layers(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter
