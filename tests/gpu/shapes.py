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
}
