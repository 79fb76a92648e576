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


def bloom(config: Any) -> str:
    """BLOOM."""
    if config.apply_residual_connection_post_layernorm:
        return "the kernels take the residual from before the norm; this model takes it from after"
    return ""


def llama(config: Any) -> str:
    """Llama, and what goes by its name."""
    heads, head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    if config.attention_bias or config.mlp_bias:
        return "DeepSpeed's Llama kernels leave out the biases that this model has"
    if config.hidden_act != "silu":
        return f"the kernels' gated MLP has SiLU only; this one has {config.hidden_act}"
    if (config.head_dim or head_size) != head_size:
        return f"DeepSpeed takes heads of {head_size} for granted; this model's have {config.head_dim}"
    if heads % config.num_key_value_heads:
        return f"{heads} heads cannot share {config.num_key_value_heads} key-value heads evenly"
    rope_type = config.rope_parameters.get("rope_type", "default")
    if rope_type != "default" or config.rope_parameters.get("partial_rotary_factor", 1) != 1:
        return f"the kernels know plain rotary positions only; this model's are scaled (rope_type {rope_type!r})"
    return ""


def inner_size(config: Any, size: int | None) -> str:
    """Whether the MLP is as wide as DeepSpeed takes for granted."""
    if size is not None and size != 4 * config.hidden_size:
        return f"DeepSpeed takes an MLP of 4 x {config.hidden_size} for granted; this one has {size}"
    return ""
