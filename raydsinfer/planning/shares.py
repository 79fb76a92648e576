"""How many of a model's parameters the fullest rank of a gang holds, as DeepSpeed cuts the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

# DeepSpeed's `tp_grain_size` for inference: what is not cut by heads is cut at multiples of so many columns.
_GRAIN = 64

# What `get_shard_size` of DeepSpeed's tp_shard.py never cuts by heads.
_BY_GRAIN = ("mlp", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def num_on_fullest_rank(model: Any, mode: str, num_ranks: int) -> int:
    """Parameters on the rank that holds most.

    Attention is cut by key-value heads, other matrices of the repeated layers by heads or by blocks of columns, the
    output head (under AutoTP) by blocks of columns; kernels cut evenly. Embeddings and norms are whole on every
    rank. Biases are reckoned as whole, though some are cut. Checked against what the engine reports
    (tests/cluster/test_cli_plan.py): exact for Llama, within a hundredth for OPT and GPT-NeoX.

    Args:
        model: A transformers model; its parameters need no memory.
        mode: How it would run.
        num_ranks: Tensor parallel size.
    """
    head = model.get_output_embeddings()
    layers = {name for name, _ in _of_repeated_layers(model)}
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    held = 0.0
    for name, parameter in model.named_parameters():  # a tied one once
        held += parameter.numel() * _share(name, parameter, name in layers, model.config, mode, num_ranks)
    if head is not None and mode == "autotp" and num_ranks > 1:
        cut = head.weight.numel() * _largest_share(head.weight.shape[1] // _GRAIN, num_ranks)
        held += cut if tied else cut - head.weight.numel()  # a part of its own beside the embedding, or instead
    return round(held)


def kv_heads(config: Any) -> int:
    """Key-value heads, by which DeepSpeed cuts attention."""
    text = config.get_text_config()
    return int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)


def most_heads(heads: int, num_ranks: int) -> int:
    """Heads on the rank that holds most: uneven ones go to the first ranks."""
    return -(-heads // num_ranks)


def _share(name: str, parameter: nn.Parameter, is_in_layer: bool, config: Any, mode: str, num_ranks: int) -> float:
    if num_ranks == 1 or not is_in_layer or parameter.dim() != 2:
        return 1.0
    if mode == "kernel_inject":
        return 1 / num_ranks
    heads, size = kv_heads(config), max(parameter.shape)
    words = ".".join(name.split(".")[-3:-1])  # what DeepSpeed knows of the name
    by_heads = "att" in name or (size % heads == 0 and not any(word in words for word in _BY_GRAIN))
    return _largest_share(heads if by_heads else size // _GRAIN, num_ranks)


def _largest_share(units: int, num_ranks: int) -> float:
    return -(-units // num_ranks) / units if units else 1.0


def _of_repeated_layers(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter
