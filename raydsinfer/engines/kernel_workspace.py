"""How much workspace DeepSpeed's kernels need, which is more than they think; pure."""

from __future__ import annotations

from typing import Any


def rows_to_reserve(model_config: Any, *, rows: int, max_tokens: int, tp_size: int) -> int:
    """For how many rows to size the workspace, so that long prompts do not run into the KV cache.

    The workspace begins with room for activations, after which comes the KV cache: `10 x hidden size` elements
    for each token of each row. The kernels look for the KV cache where it would be with the hidden size of one
    rank, but write activations of the whole hidden size. So on several ranks the activations of a batch that is
    nearly full overwrite keys of the first layer, and what follows is wrong text. The room grows with the rows
    that the first batch has.

    Args:
        model_config: The model's `transformers` configuration.
        rows: Of the largest batch.
        max_tokens: Prompt plus new tokens of the longest row.
        tp_size: Number of ranks.

    Returns:
        `rows`, or more.
    """
    if model_config.model_type == "bloom":
        return rows  # DeepSpeed keeps its keys and values elsewhere
    hidden: int = model_config.hidden_size
    # A gated MLP has two products side by side; all others are four times as wide as the model.
    inner: int = 2 * model_config.intermediate_size if model_config.model_type == "llama" else 4 * hidden
    # The norm before the attention lies at 3 x hidden, the MLP's inner product after input, output and norm.
    used = max(4 * hidden, 3 * hidden + inner // tp_size)
    room = 10 * hidden // tp_size
    longest_prompt = max_tokens - 1
    return max(rows, -(-rows * longest_prompt * used // (max_tokens * room)))
