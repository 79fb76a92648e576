"""What a model's configuration says that packed steps have no answer to. The trial of eight tokens cannot see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raydsinfer.errors import UnsupportedError

# Kinds of attention that a layer may have by transformers' configurations; others, chunks for example, live in the
# mask, which is not asked for here.
_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention", "attention"}

# Rotations that depend on the longest position of a whole forward: in a packed step, on another row's.
_ROTATIONS_OF_THE_WHOLE = ("dynamic", "longrope")


def require_known(model: Any, max_tokens: int) -> None:
    """Refuse a model whose text would be wrong, or wrong for long sequences.

    Args:
        model: A transformers model.
        max_tokens: Tokens of the longest sequence.

    Raises:
        UnsupportedError: It has something that is not known here.
    """
    if reason := _problem(model, max_tokens):
        raise UnsupportedError(what="continuous batching of this model", why=reason, instead="Use batching='static'.")


def _problem(model: Any, max_tokens: int) -> str:
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if getattr(model.generation_config, name, None) is not None:
            return f"its generation_config.json sets {name}"
    config = model.config.get_text_config()
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        return "slow_but_exact sums what attention gives in another way"
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk is not None and chunk < max_tokens:
        return f"it attends in chunks of {chunk} tokens, and max_tokens is {max_tokens}"
    strange = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYER_TYPES
    if strange - ({"chunked_attention"} if chunk is not None else set()):
        return f"its layers attend in a way that is not known here: {', '.join(sorted(strange))}"
    for rotation in _rotations(config):
        kind, trained = rotation.get("rope_type"), _trained_length(rotation, config)
        if kind in _ROTATIONS_OF_THE_WHOLE and max_tokens > trained:
            return (
                f"its {kind} rotation changes beyond {trained} tokens for a whole batch, and max_tokens is {max_tokens}"
            )
    return ""


def _rotations(config: Any) -> Iterator[Mapping[str, Any]]:
    """The model's rotary settings: one for all layers, or one for each type of layer."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if "rope_type" in settings:
        yield settings
    else:
        yield from (value for value in settings.values() if isinstance(value, Mapping))


def _trained_length(rotation: Mapping[str, Any], config: Any) -> int:
    original = rotation.get("original_max_position_embeddings")
    return int(original or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings)
