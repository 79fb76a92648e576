"""Sizes of published models, to be filled with random weights."""

from __future__ import annotations

from typing import Any

from raydsinfer.errors import InvalidSettingError


def _opt(hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": hidden_size,
        "word_embed_proj_dim": hidden_size,
        "ffn_dim": 4 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "max_position_embeddings": 2048,
        "dropout": 0.0,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "opt-tiny": {**_opt(64, 4, 4), "vocab_size": 512},
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "opt-30b": _opt(7168, 48, 56),
    "opt-66b": _opt(9216, 64, 72),
    "llama-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
    "llama-7b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
    },
    "gpt2-xl": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "hidden_size": 1600,
        "num_hidden_layers": 48,
        "num_attention_heads": 25,
        "max_position_embeddings": 1024,
    },
    "gpt-neo-2.7b": {
        "model_type": "gpt_neo",
        "vocab_size": 50257,
        "hidden_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "attention_types": [[["global", "local"], 16]],
        "window_size": 256,
        "max_position_embeddings": 2048,
    },
    "gpt-j-6b": {
        "model_type": "gptj",
        "vocab_size": 50400,
        "hidden_size": 4096,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "rotary_dim": 64,
        "max_position_embeddings": 2048,
    },
    "pythia-6.9b": {
        "model_type": "gpt_neox",
        "vocab_size": 50432,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "bloom-7b1": {
        "model_type": "bloom",
        "vocab_size": 250880,
        "hidden_size": 4096,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
    },
}
"""Name → configuration, as `config.json` has it."""


def shape(name: str, num_layers: int | None = None) -> dict[str, Any]:
    """A configuration by name, with another number of layers if one is given.

    Raises:
        InvalidSettingError: There is no such shape.
    """
    if name not in SHAPES:
        raise InvalidSettingError(name="shape", value=name, expected=f"one of {', '.join(SHAPES)}")
    changes = {} if num_layers is None else {"num_hidden_layers": num_layers}
    return {**SHAPES[name], **changes}
