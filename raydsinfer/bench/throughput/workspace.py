"""The memory of DeepSpeed's kernels: they cut their workspace down silently if there is too little. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydsinfer.engines.kernel_workspace import rows_to_reserve

_RESERVE_BYTES = 2 * 2**30  # what DeepSpeed leaves free (500 MiB), CUDA's own libraries, and the logits


def workspace_bytes(model_config: Any, *, rows: int, tokens: int, tp_size: int, item_size: int) -> int:
    """Bytes that the kernels ask for on a rank, as `GenWorkSpace` of DeepSpeed's `inference_context.h` reckons.

    Args:
        model_config: Of transformers.
        rows: Of the largest batch.
        tokens: Prompt plus new tokens of a row.
        tp_size: Number of ranks.
        item_size: Bytes of a value.
    """
    heads: int = model_config.num_attention_heads
    head_size: int = model_config.hidden_size // heads
    padded = head_size if head_size > 128 else next(size for size in (32, 64, 128) if head_size <= size)
    activations = 10 * heads * padded * rows
    scores = rows * (heads // tp_size) * tokens
    cache: int = model_config.num_hidden_layers * rows * (heads * padded // tp_size) * 2
    return (activations + scores + cache) * tokens * item_size


def too_large(
    rows: Mapping[str, int], free_bytes: float, model_config: Any, *, batch_size: int, tp_size: int, item_size: int
) -> dict[str, str]:
    """Workloads whose rows are too long for the memory that is left: name → why.

    Args:
        rows: Workload → tokens of its longest row.
        free_bytes: Beside the weights.
        model_config: Of transformers.
        batch_size: Rows of the largest batch.
        tp_size: Number of ranks.
        item_size: Bytes of a value.
    """
    usable = max(0.0, free_bytes - _RESERVE_BYTES)
    problems = {}
    for name, tokens in rows.items():
        reserved = rows_to_reserve(model_config, rows=batch_size, max_tokens=tokens, tp_size=tp_size)
        needed = workspace_bytes(model_config, rows=reserved, tokens=tokens, tp_size=tp_size, item_size=item_size)
        if needed > usable:
            problems[name] = (
                f"does not fit: {batch_size} rows of {tokens} tokens need {needed / 2**30:.1f} GiB of workspace, "
                f"{usable / 2**30:.1f} are free; lower --max-batch-size"
            )
    return problems
