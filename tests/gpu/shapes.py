"""Models that are small, but large enough for rounding to matter."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "word_embed_proj_dim": 1024,
        "vocab_size": 50272,
    },
    "llama": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    # With tied weights it would repeat the last token, see tests/models.py; larger layers round too much in 16 bits.
    "bloom": {"hidden_size": 1024, "n_layer": 12, "n_head": 16, "vocab_size": 32000, "tie_word_embeddings": False},
}

# For kernel injection: a family, or a family and what is special. Heads of 64 elements if nothing is said.
_GPT = {"n_embd": 768, "n_layer": 6, "n_head": 12, "max_position_embeddings": 512}
_NEO = {"hidden_size": 768, "num_layers": 6, "num_heads": 12, "max_position_embeddings": 512}
_NEOX = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 6, "max_position_embeddings": 512}
_OPT = {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 6, "num_attention_heads": 12}
_LLAMA = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12}
KERNEL_SHAPES: dict[str, dict[str, Any]] = {
    "opt": {**_OPT, "word_embed_proj_dim": 768, "max_position_embeddings": 512},
    "gpt2": _GPT,
    "gpt2, scores scaled by layer": {**_GPT, "scale_attn_by_inverse_layer_idx": True},
    "gptj": {**_GPT, "n_head": 6, "rotary_dim": 64},
    "gpt_neo": {**_NEO, "attention_types": [[["global", "local"], 3]], "window_size": 256},
    "gpt_neox": {**_NEOX, "num_attention_heads": 12},
    "gpt_neox, wide heads": {**_NEOX, "num_attention_heads": 6, "rotary_pct": 1.0},
    "gpt_neox, one after the other": {**_NEOX, "num_attention_heads": 12, "use_parallel_residual": False},
    "bloom": {
        "hidden_size": 768,
        "n_layer": 6,
        "n_head": 12,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
    "llama": {**_LLAMA, "num_key_value_heads": 12, "max_position_embeddings": 512},
    "llama, shared key-value heads": {**_LLAMA, "num_key_value_heads": 4, "max_position_embeddings": 512},
}
