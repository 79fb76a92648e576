"""Which configurations of each family DeepSpeed's fused kernels cannot compute, and why; pure.

A function a family: it takes the model's `transformers` configuration, and returns the reason, or an empty
string if the kernels are right for it. What its docstring says after a colon stands in the documentation's table.
Those that end in `_on_gpu` are asked for compiled kernels only, and of a dtype.
"""

from __future__ import annotations

from typing import Any

_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def opt(config: Any) -> str:
    """OPT: not opt-350m, which has post-norm layers and embedding projections."""
    if not config.do_layer_norm_before or config.word_embed_proj_dim != config.hidden_size:
        return "DeepSpeed's OPT kernels have neither post-norm layers nor embedding projections (opt-350m)"
    if not config.enable_bias or not config.layer_norm_elementwise_affine:
        return "DeepSpeed's OPT kernels take biases and weights of the norms for granted"
    return (
        _activation(config.activation_function, ("relu", "gelu", "gelu_new"))
        or _inner_size(config, config.ffn_dim)
        or head_size(config)
    )


def gpt2(config: Any) -> str:
    """GPT-2: no cross-attention."""
    if config.add_cross_attention:
        return "the kernels have no cross-attention"
    return _activation(config.activation_function) or _inner_size(config, config.n_inner) or head_size(config)


def gpt_neo(config: Any) -> str:
    """GPT-Neo."""
    return _activation(config.activation_function) or _inner_size(config, config.intermediate_size) or head_size(config)


def gptj(config: Any) -> str:
    """GPT-J: float32 on CPUs only."""
    if not config.rotary_dim or config.rotary_dim % 8:
        return f"the kernels rotate 8 elements at a time, and rotary_dim is {config.rotary_dim}"
    return _activation(config.activation_function) or _inner_size(config, config.n_inner) or head_size(config)


def gpt_neox(config: Any) -> str:
    """GPT-NeoX: heads of 32, 64, 128 or 256 elements, so neither GPT-NeoX-20B nor Pythia-2.8b."""
    if not config.attention_bias:
        return "DeepSpeed takes biases of the attention for granted"
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        return f"the kernels have no {rope['rope_type']} rotary positions"
    return (
        _activation(config.hidden_act)
        or _inner_size(config, config.intermediate_size)
        or head_size(config)
        or rotated_halves(*_neox_sizes(config))
    )


def llama(config: Any) -> str:
    """Llama: not scaled rotary positions (Llama 3.1), biases, or heads whose size is no power of two."""
    size = config.hidden_size // config.num_attention_heads
    if config.attention_bias or config.mlp_bias:
        return "DeepSpeed's Llama kernels leave out the biases that this model has"
    if (config.head_dim or size) != size:
        return f"DeepSpeed takes heads of {size} for granted; this model's have {config.head_dim}"
    if config.num_attention_heads % config.num_key_value_heads:
        return f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} key-value heads evenly"
    rope = config.rope_parameters
    if rope["rope_type"] != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return f"the kernels have no {rope['rope_type']} rotary positions, only default ones of whole heads"
    return _activation(config.hidden_act, ("silu",)) or head_size(config) or rotated_halves(size, size)


def bloom(config: Any) -> str:
    """BLOOM: not in float32 on a GPU."""
    if config.apply_residual_connection_post_layernorm:
        return "the kernels take the residual from before the norm; this model takes it from after"
    return ""


def any_dtype(config: Any, dtype: str) -> str:
    """Nothing depends on the dtype."""
    return ""


def gptj_on_gpu(config: Any, dtype: str) -> str:
    """The float32 kernel rotates the second of each pair by the first one's new value."""
    return "DeepSpeed's float32 kernel rotates positions wrongly" if dtype == "float32" else ""


def bloom_on_gpu(config: Any, dtype: str) -> str:
    """The float32 softmax leaves out alibi and the scale."""
    return "DeepSpeed's float32 softmax leaves out alibi" if dtype == "float32" else ""


def gpt_neox_on_gpu(config: Any, dtype: str) -> str:
    """Float32 heads may have more elements than the kernel can rotate."""
    size, rotary_dim = _neox_sizes(config)
    return rotated_halves(size, rotary_dim, _item_bytes(dtype))


def llama_on_gpu(config: Any, dtype: str) -> str:
    """As of GPT-NeoX."""
    size = config.hidden_size // config.num_attention_heads
    return rotated_halves(size, size, _item_bytes(dtype))


def _item_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def rotated_halves(size: int, rotary_dim: int, item_bytes: int = 2) -> str:
    """Whether the CUDA kernel that rotates halves of heads can do it, on which a family with such positions depends.

    It gives each head a power of two of threads and does not look where the head ends. So it must be a power of
    two itself, or neighbouring heads overwrite each other.

    Args:
        size: Elements of a head.
        rotary_dim: How many of them are rotated.
        item_bytes: Bytes of an element.
    """
    if size & (size - 1):
        return f"heads of {size} elements are no power of two, and the kernel that rotates them would mix them up"
    half = rotary_dim // 2
    together = next((n // item_bytes for n in (16, 8, 4) if n >= item_bytes and half % (n // item_bytes) == 0), 0)
    if not together or not 4 <= size // together <= 32:
        return f"the kernel cannot rotate {rotary_dim} of {size} elements of {item_bytes} bytes"
    return ""


def _neox_sizes(config: Any) -> tuple[int, int]:
    """Elements of a head, and how many of them are rotated."""
    size = config.hidden_size // config.num_attention_heads
    return size, int(size * config.rope_parameters.get("partial_rotary_factor", 1.0))


def head_size(config: Any) -> str:
    """Whether the kernels can move heads of this size."""
    size = config.hidden_size // config.num_attention_heads
    return f"the kernels move 8 elements at a time, and heads have {size}" if size % 8 else ""


def _activation(name: str, known: tuple[str, ...] = _GELU) -> str:
    return "" if name in known else f"the kernels have no {name} here, only {', '.join(known)}"


def _inner_size(config: Any, size: int | None) -> str:
    if size is not None and size != 4 * config.hidden_size:
        return f"DeepSpeed takes an MLP of 4 x {config.hidden_size} for granted; this one has {size}"
    return ""
