from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from raydsinfer.engines import kernel_limits
from raydsinfer.engines.families import FAMILIES

PYTHIA = {"rotary_pct": 0.25}  # of each size, as its config.json has it

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("opt", {"hidden_size": 768, "num_attention_heads": 12, "word_embed_proj_dim": 768}),
        ("opt", {"hidden_size": 2560, "num_attention_heads": 32, "ffn_dim": 10240, "word_embed_proj_dim": 2560}),
        ("gpt2", {}),
        ("gpt2", {"n_embd": 1600, "n_head": 25, "scale_attn_by_inverse_layer_idx": True}),
        ("gptj", {}),
        ("gpt_neo", {}),
        ("gpt_neox", {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048, **PYTHIA}),
        ("gpt_neox", {"hidden_size": 2048, "num_attention_heads": 8, "intermediate_size": 8192, **PYTHIA}),
        ("gpt_neox", {"hidden_size": 5120, "num_attention_heads": 40, "intermediate_size": 20480, **PYTHIA}),
        ("llama", {}),
        ("llama", {"num_key_value_heads": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
        ("bloom", {"hidden_size": 14336, "n_head": 112}),
    ],
)
def test_what_the_kernels_compute(family: str, fields: dict[str, Any]) -> None:
    limits = FAMILIES[family].kernels
    assert limits is not None
    assert limits(AutoConfig.for_model(family, **fields)) == ""


@pytest.mark.parametrize(
    ("family", "fields", "says"),
    [
        ("opt", {"do_layer_norm_before": False}, "post-norm"),
        ("opt", {"word_embed_proj_dim": 512}, "embedding projections"),
        ("opt", {"enable_bias": False}, "biases"),
        ("opt", {"activation_function": "silu"}, "no silu here"),
        ("opt", {"ffn_dim": 1024}, "an MLP of 4 x 768"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
        ("gpt2", {"n_inner": 1024}, "an MLP of 4 x 768"),
        ("gpt2", {"n_head": 64}, "heads have 12"),
        ("gpt2", {"activation_function": "relu"}, "no relu here"),
        ("gptj", {"rotary_dim": 0}, "rotary_dim is 0"),
        ("gptj", {"rotary_dim": 36}, "rotary_dim is 36"),
        ("gpt_neo", {"intermediate_size": 100}, "an MLP of 4 x 2048"),
        ("gpt_neox", {"attention_bias": False}, "biases of the attention"),
        ("gpt_neox", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "no linear rotary positions"),
        ("gpt_neox", {"hidden_act": "relu"}, "no relu here"),
        # The sizes of GPT-NeoX-20B and of Pythia-2.8b.
        ("gpt_neox", {}, "heads of 96 elements are no power of two"),
        (
            "gpt_neox",
            {"hidden_size": 2560, "num_attention_heads": 32, "intermediate_size": 10240},
            "heads of 80 elements are no power of two",
        ),
        ("llama", {"attention_bias": True}, "leave out the biases"),
        ("llama", {"mlp_bias": True}, "leave out the biases"),
        ("llama", {"hidden_act": "gelu"}, "no gelu here"),
        ("llama", {"head_dim": 64}, "heads of 128 for granted; this model's have 64"),
        ("llama", {"num_key_value_heads": 5}, "cannot share 5"),
        ("llama", {"rope_parameters": LLAMA3_ROPE}, "no llama3 rotary positions"),
        # The sizes of OpenLLaMA-3b.
        ("llama", {"hidden_size": 3200, "intermediate_size": 8640}, "heads have 100"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "residual from before the norm"),
    ],
)
def test_what_they_do_not_and_why(family: str, fields: dict[str, Any], says: str) -> None:
    limits = FAMILIES[family].kernels
    assert limits is not None
    assert says in limits(AutoConfig.for_model(family, **fields))


@pytest.mark.parametrize(
    ("size", "rotary_dim", "item_bytes", "possible"),
    [
        (64, 16, 2, True),
        (256, 64, 2, True),  # Pythia-1b in 16 bit: 32 threads of 8 elements
        (256, 64, 4, False),  # and in float32: 64 threads are more than a warp
        (128, 128, 4, True),
        (16, 16, 2, False),  # 2 threads
        (16, 4, 2, True),
        (64, 6, 2, False),  # a half of 3 elements is no whole number of 4 bytes
    ],
)
def test_rotated_halves(size: int, rotary_dim: int, item_bytes: int, possible: bool) -> None:
    assert (kernel_limits.rotated_halves(size, rotary_dim, item_bytes) == "") == possible
