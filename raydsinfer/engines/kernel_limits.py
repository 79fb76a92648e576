"""Which configurations of each family DeepSpeed's fused kernels cannot compute, and why; pure.

A function a family: it takes the model's `transformers` configuration, and returns the reason, or an empty
string if the kernels are right for it.
"""

from __future__ import annotations

from typing import Any


def opt(config: Any) -> str:
    """OPT."""
    if not config.do_layer_norm_before or config.word_embed_proj_dim != config.hidden_size:
        return "DeepSpeed's OPT kernels have neither post-norm layers nor embedding projections (opt-350m)"
    if config.activation_function not in ("relu", "gelu", "gelu_new"):
        return f"the kernels have no {config.activation_function}, only ReLU and GELU"
    return inner_size(config, config.ffn_dim)


def inner_size(config: Any, size: int | None) -> str:
    """Whether the MLP is as wide as DeepSpeed takes for granted."""
    if size is not None and size != 4 * config.hidden_size:
        return f"DeepSpeed takes an MLP of 4 x {config.hidden_size} for granted; this one has {size}"
    return ""
