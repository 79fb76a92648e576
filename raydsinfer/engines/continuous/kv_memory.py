"""How much of the device's memory the KV cache gets."""

from __future__ import annotations

import torch

from raydsinfer.config import EngineConfig
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.kv_cache import KVCache, LayerShape, bytes_per_token, count_pages


def reserve_cache(
    layers: list[LayerShape], config: EngineConfig, agreement: Agreement, *, dtype: torch.dtype, device: str
) -> KVCache:
    """A KV cache as large as the settings and the tightest rank allow.

    On a GPU a step as large as the largest one must have been made before, since the peak was last reset.

    Args:
        layers: Shape of each layer on this rank.
        config: Inference settings.
        agreement: With the other ranks.
        dtype: Of keys and values.
        device: torch device as a string.

    Raises:
        EngineError: Not even one sequence of `max_tokens` fits.
    """
    # Ranks may hold different numbers of heads, and GPUs may have different free memory: the tightest decides,
    # before anything is refused, so that all ranks refuse it.
    token_bytes = int(agreement.largest(bytes_per_token(layers, dtype.itemsize)))
    needed = -(-config.max_tokens // config.kv_page_size)
    if config.kv_cache_bytes is not None:
        num_bytes = config.kv_cache_bytes
    elif device == "cpu":
        num_bytes = (config.max_batch_size * needed + 1) * config.kv_page_size * token_bytes
    else:
        num_bytes = int(-agreement.largest(-_free_bytes(config.gpu_memory_utilization)))
    pages = count_pages(
        num_bytes,
        page_size=config.kv_page_size,
        token_bytes=token_bytes,
        max_tokens=config.max_tokens,
        most=config.max_running * needed,
    )
    return KVCache(layers, num_pages=pages, page_size=config.kv_page_size, dtype=dtype, device=device)


def _free_bytes(utilization: float) -> int:
    """What may still be taken of the GPU, when a step needs as much again as the largest one so far did."""
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return int(free - peak - (1 - utilization) * total)
