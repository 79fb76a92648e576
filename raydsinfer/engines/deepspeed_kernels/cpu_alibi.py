"""The op of BLOOM's softmax on a CPU, with the distances of each row and head."""

from __future__ import annotations

import torch
from torch.nn import functional


def alibi_softmax(
    scores: torch.Tensor,
    mask: torch.Tensor,
    alibi: torch.Tensor,
    triangular: bool,
    recompute: bool,
    local_attention: bool,
    window_size: int,
    async_op: bool,
    layer_scale: float,
    head_offset: int,
    mp_size: int,
) -> torch.Tensor:
    """Softmax over scores with distances added, as the CUDA kernel does it for 16 bits.

    DeepSpeed's PyTorch version gives all rows the distances of the first, and on several ranks cuts them twice.

    Args:
        scores: (batch, heads of this rank, tokens, keys).
        mask: Added; (batch, 1, tokens, keys).
        alibi: Added; (batch x heads of all ranks, 1, keys).
        triangular: Not used, as all that follow but the last three: the mask says what is seen.
        recompute: Not used.
        local_attention: Not used.
        window_size: Not used.
        async_op: Not used.
        layer_scale: Scores are multiplied by it.
        head_offset: First head of this rank.
        mp_size: Number of ranks.
    """
    batch, heads, _, keys = scores.shape
    distances = alibi.view(batch, heads * mp_size, 1, keys)[:, head_offset : head_offset + heads]
    summed = scores * layer_scale + distances + mask
    return functional.softmax(summed, dim=-1, dtype=torch.float32).to(scores.dtype)
