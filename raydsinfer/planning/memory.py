"""Memory of a rank: weights, keys and values, the rest, and how many rows that leaves room for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raydsinfer.bench.throughput.workspace import workspace_bytes
from raydsinfer.checkpoints.sizes import memory_in_words
from raydsinfer.config import EngineConfig
from raydsinfer.engines.continuous.kv_cache import bytes_per_token
from raydsinfer.engines.kernel_workspace import rows_to_reserve
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.verdicts import Engine, mode_of

CUDA_BYTES = 2**30
"""Reckoned for CUDA's context and libraries and NCCL's buffers on a GPU: an allowance, not a measurement."""

KERNELS_FREE_BYTES = 500 * 2**20
"""What DeepSpeed's kernels leave free beside their workspace (inference_context.h)."""

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The fullest rank, with one engine and one dtype.

    Args:
        engine: Which.
        dtype: Of weights, keys and values.
        num_parameters: On the rank.
        weights_bytes: Of these.
        kv_bytes_per_token: Of keys and values, all layers together.
        overhead_bytes: Reckoned for all else: CUDA, activations, logits.
        device_bytes: Of the GPU; None on CPU, and where nobody told.
        kv_bytes: For keys and values, or for the workspace of the kernels; None where `device_bytes` would be needed.
        kv_tokens: That these hold; None as above.
        largest_batch: Rows of `max_tokens` tokens at once; None as above.
        wanted_rows: What the settings allow at most.
        problem: Why not even one row fits, or not all that the kernels reserve; empty if all is well.
        hint: What to do about it.
    """

    engine: Engine
    dtype: str
    num_parameters: int
    weights_bytes: int
    kv_bytes_per_token: int
    overhead_bytes: int
    device_bytes: int | None
    kv_bytes: int | None
    kv_tokens: int | None
    largest_batch: int | None
    wanted_rows: int
    problem: str = ""
    hint: str = ""


def rank_memory(
    model: ModelFacts,
    config: EngineConfig,
    engine: Engine,
    dtype: str,
    num_ranks: int,
    *,
    use_gpu: bool,
    device_bytes: int | None,
) -> Memory:
    """What the fullest rank of a gang needs, and has room for.

    Args:
        model: The model.
        config: Inference settings.
        engine: How rows are computed.
        dtype: Of weights, keys and values; not ``auto``.
        num_ranks: Tensor parallel size.
        use_gpu: Whether a rank is a GPU.
        device_bytes: Memory of the smallest GPU; None if it is not known, and on CPU.
    """
    # What is computed with, which is not what int8 weights are kept in.
    cache_item = ITEM_BYTES[dtype] if dtype != "int8" else ITEM_BYTES["float16" if use_gpu else "float32"]
    num_parameters = model.num_on_rank(mode_of(engine), num_ranks)
    token_bytes = bytes_per_token(model.layers_on_rank(num_ranks), cache_item)
    overhead = _overhead(model.config, config, engine, num_ranks, cache_item, use_gpu=use_gpu)
    weights = num_parameters * cache_item
    if dtype == "int8":
        weights -= model.num_quantised_on_rank(mode_of(engine), num_ranks) * (cache_item - 1)
    wanted = config.max_running if engine == "continuous" else config.max_batch_size
    free = None
    if device_bytes is not None:
        limit = int(config.gpu_memory_utilization * device_bytes) if engine == "continuous" else device_bytes
        free = limit - weights - overhead
    room = _room(model.config, config, engine, num_ranks, token_bytes, cache_item, free, use_gpu=use_gpu)
    problem, hint = _problem(room, config, engine, weights + overhead, device_bytes)
    return Memory(
        engine=engine,
        dtype=dtype,
        num_parameters=num_parameters,
        weights_bytes=weights,
        kv_bytes_per_token=token_bytes,
        overhead_bytes=overhead,
        device_bytes=device_bytes,
        kv_bytes=room.kv_bytes,
        kv_tokens=room.kv_tokens,
        largest_batch=room.rows,
        wanted_rows=wanted,
        problem=problem,
        hint=hint,
    )


@dataclass(frozen=True, kw_only=True)
class _Room:
    kv_bytes: int | None = None
    kv_tokens: int | None = None
    rows: int | None = None
    row_bytes: int = 0


def _room(
    model_config: Any,
    config: EngineConfig,
    engine: Engine,
    num_ranks: int,
    token_bytes: int,
    item: int,
    free: int | None,
    *,
    use_gpu: bool,
) -> _Room:
    if engine == "continuous":
        return _paged(config, token_bytes, free, use_gpu=use_gpu)
    if engine == "kernel_inject":
        tokens, batch = config.max_tokens, config.max_batch_size
        reserved = rows_to_reserve(model_config, rows=batch, max_tokens=tokens, tp_size=num_ranks)
        whole = workspace_bytes(model_config, rows=reserved, tokens=tokens, tp_size=num_ranks, item_size=item)
        row = -(-whole // batch)
        free = None if free is None else free - KERNELS_FREE_BYTES
    else:
        # `torch.cat` makes a layer's keys and values anew at each token, beside the old ones.
        row = config.max_tokens * (token_bytes + token_bytes // _num_layers(model_config))
    rows = config.max_batch_size if free is None else max(0, free // row)
    if free is None and use_gpu:
        return _Room(row_bytes=row)
    rows = min(rows, config.max_batch_size)
    return _Room(kv_bytes=rows * row, kv_tokens=rows * config.max_tokens, rows=rows, row_bytes=row)


def _paged(config: EngineConfig, token_bytes: int, free: int | None, *, use_gpu: bool) -> _Room:
    """As `reserve_cache` and `count_pages` of the engine do it."""
    needed = -(-config.max_tokens // config.kv_page_size)
    page = config.kv_page_size * token_bytes
    row = needed * page
    if config.kv_cache_bytes is not None:
        num_bytes = config.kv_cache_bytes
    elif not use_gpu:
        num_bytes = (config.max_batch_size * needed + 1) * page
    elif free is None:
        return _Room(row_bytes=row)
    else:
        num_bytes = free
    pages = max(0, min(num_bytes // page - 1, config.max_running * needed))
    rows = min(config.max_running, pages // needed)
    return _Room(
        kv_bytes=(pages + 1) * page if rows else 0,
        kv_tokens=pages * config.kv_page_size if rows else 0,
        rows=rows,
        row_bytes=row,
    )


def _problem(
    room: _Room, config: EngineConfig, engine: Engine, taken: int, device_bytes: int | None
) -> tuple[str, str]:
    if room.rows is None:
        return "", ""
    beside = (
        "" if device_bytes is None else f" beside {memory_in_words(taken)} on a GPU of {memory_in_words(device_bytes)}"
    )
    row = f"one row of max_tokens={config.max_tokens} needs {memory_in_words(room.row_bytes)}"
    if room.rows == 0:
        return f"no row fits: {row}{beside}", "Use more GPUs a gang, or lower max_tokens."
    if engine == "kernel_inject" and room.rows < config.max_batch_size:
        return (
            f"the kernels reserve max_batch_size={config.max_batch_size} rows when they start, {room.rows} fit: "
            f"{row}{beside}",
            f"Lower max_batch_size to {room.rows}, or use more GPUs a gang.",
        )
    if config.kv_cache_bytes is not None and device_bytes is not None and engine == "continuous":
        over = taken + config.kv_cache_bytes - device_bytes
        if over > 0:
            return (
                f"kv_cache_bytes={config.kv_cache_bytes} is {memory_in_words(over)} more than the GPU has",
                "Lower it.",
            )
    return "", ""


def _overhead(
    model_config: Any, config: EngineConfig, engine: Engine, num_ranks: int, item: int, *, use_gpu: bool
) -> int:
    """Reckoned, not measured: the gang measures it at its start, where the KV cache takes what is left."""
    text = model_config.get_text_config()
    hidden = text.hidden_size
    inner = next(
        (found for name in ("intermediate_size", "ffn_dim", "n_inner") if (found := getattr(text, name, 0))), 0
    )
    token = (4 * hidden + 3 * (inner or 4 * hidden) // num_ranks) * item
    rows = config.max_running if engine == "continuous" else config.max_batch_size
    tokens = max(config.max_step_tokens, rows) if engine == "continuous" else config.max_tokens
    logits = rows * text.vocab_size * (item + 2 * 4)  # and two copies in float32, to choose tokens by
    return int(tokens * token + logits + (CUDA_BYTES if use_gpu else 0))


def _num_layers(model_config: Any) -> int:
    return int(model_config.get_text_config().num_hidden_layers)
