"""A step's plan as tensors: what the model and its attention read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.plan import Chunk, StepPlan


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Decode rows: one token each, that lies in the history of its slot.

    Args:
        slots: int64 (rows,) on the device; rows of padding have the slot behind the last.
        positions: Of the tokens, int64 (rows,).
        where: Their positions in the KV cache, int64 (rows,).
        lengths: Tokens that each row sees, itself included; int64 (rows,).
        host_slots: `slots` on the host, without padding.
        host_lengths: `lengths` on the host, without padding.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    where: torch.Tensor
    lengths: torch.Tensor
    host_slots: np.ndarray
    host_lengths: np.ndarray

    @property
    def longest(self) -> int:
        """Tokens that the longest row sees."""
        return int(self.host_lengths.max(initial=1))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prefill chunks, one behind the other.

    Args:
        token_ids: int64 (tokens,).
        positions: int64 (tokens,).
        where: Positions in the KV cache, int64 (tokens,).
        chunks: Of the plan, in this order.
        starts: First token of each chunk within `token_ids`, and the end; int32 (chunks + 1,).
        seen: Positions in the KV cache of all that each chunk sees, chunk after chunk, int64; None if no chunk
            sees more than itself.
        seen_starts: First of each chunk within `seen`, and the end; int32 (chunks + 1,).
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    where: torch.Tensor
    chunks: tuple[Chunk, ...]
    starts: torch.Tensor
    seen: torch.Tensor | None
    seen_starts: torch.Tensor


def decode_array(chunks: tuple[Chunk, ...], tables: PageTables, page_size: int, padded: int) -> np.ndarray:
    """Slots, positions, places in the cache and lengths of decode rows, int64 (4, padded)."""
    array = np.empty((4, padded), dtype=np.int64)
    count, last = len(chunks), len(tables.host) - 1
    array[0, :count] = [chunk.slot for chunk in chunks]
    array[1, :count] = [chunk.start for chunk in chunks]
    array[0, count:], array[1, count:] = last, 0
    array[2] = tables.host[array[0], array[1] // page_size].astype(np.int64) * page_size + array[1] % page_size
    array[3] = array[1] + 1
    return array


def rows_of(array: np.ndarray, tensor: torch.Tensor, count: int) -> Rows:
    """Decode rows from `decode_array`, which `tensor` holds on the device."""
    slots, positions, where, lengths = tensor.unbind(0)
    return Rows(
        slots=slots,
        positions=positions,
        where=where,
        lengths=lengths,
        host_slots=array[0, :count],
        host_lengths=array[3, :count],
    )


def prompts_of(chunks: tuple[Chunk, ...], tables: PageTables, page_size: int, device: str) -> Prompts:
    """The prefill chunks of a plan as tensors."""
    lengths = np.array([chunk.length for chunk in chunks])
    ends = np.array([chunk.start + chunk.length for chunk in chunks])
    positions = np.concatenate([np.arange(chunk.start, chunk.start + chunk.length) for chunk in chunks])
    slots = np.repeat([chunk.slot for chunk in chunks], lengths)
    where = tables.host[slots, positions // page_size].astype(np.int64) * page_size + positions % page_size
    token_ids = np.concatenate([np.asarray(chunk.token_ids, dtype=np.int64) for chunk in chunks])
    packed = upload(np.stack([token_ids, positions, where]), device)
    sees_more = any(chunk.start for chunk in chunks)
    starts = upload(_starts(lengths), device)
    return Prompts(
        token_ids=packed[0],
        positions=packed[1],
        where=packed[2],
        chunks=chunks,
        starts=starts,
        seen=upload(_seen(chunks, tables, page_size), device) if sees_more else None,
        seen_starts=upload(_starts(ends), device) if sees_more else starts,
    )


def sampled_of(plan: StepPlan, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Places, slots and new positions of the tokens that a mixed step samples, and the slots on the host."""
    places = np.cumsum([chunk.length for chunk in plan.chunks]) - 1
    chosen = [(place, chunk) for place, chunk in zip(places, plan.chunks, strict=True) if chunk.samples]
    array = np.array(
        [[place, chunk.slot, chunk.start + chunk.length] for place, chunk in chosen], dtype=np.int64
    ).reshape(-1, 3)
    tensor = upload(np.ascontiguousarray(array.T), device)
    return tensor[0], tensor[1], tensor[2], [chunk.slot for _, chunk in chosen]


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _seen(chunks: tuple[Chunk, ...], tables: PageTables, page_size: int) -> np.ndarray:
    parts = []
    for chunk in chunks:
        positions = np.arange(chunk.start + chunk.length)
        pages = tables.host[chunk.slot, positions // page_size].astype(np.int64)
        parts.append(pages * page_size + positions % page_size)
    return np.concatenate(parts)
