"""Decode attention by FlashInfer's kernels, which read pages where they lie.

FlashInfer is an optional extra. It compiles its kernels at their first use on a host (about 20 s).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.step_inputs import Rows

HEAD_SIZES = (64, 128, 256)
_GROUP_SIZES = (1, 2, 3, 4, 8)  # query heads to a key-value head that the kernels without tensor cores are made for
_WORKSPACE_BYTES = 128 << 20  # what FlashInfer's documentation recommends


class Workspace:
    """Scratch memory that all batch sizes share, since only one runs at a time.

    Args:
        device: Where.
    """

    def __init__(self, device: str) -> None:
        self.buffer = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)


class FlashInferDecode:
    """One wrapper of FlashInfer's, planned for each step on the host and run in each layer.

    Args:
        cache: Keys and values; all layers of one shape.
        tables: Pages of each slot.
        workspace: Shared scratch memory.
        batch: Rows of the captured steps that this is for; None: any number, not captured.
    """

    name: ClassVar[str] = "flashinfer"

    def __init__(self, cache: KVCache, tables: PageTables, workspace: Workspace, batch: int | None = None) -> None:
        self._cache, self._tables, self._workspace, self._batch = cache, tables, workspace, batch
        self._layer = cache.layers[0]
        self._wrapper = self._make_wrapper()
        self._pages = [
            tuple(part.view(-1, cache.page_size, *part.shape[1:]) for part in pair)
            for pair in zip(cache.keys, cache.values, strict=True)
        ]
        self._planned: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _make_wrapper(self) -> Any:
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        device = self._workspace.buffer.device
        group = self._layer.num_query_heads // self._layer.num_heads
        buffers: dict[str, Any] = {"use_tensor_cores": group not in _GROUP_SIZES}
        if self._batch is not None:
            sizes = {"indptr": self._batch + 1, "indices": self._batch * self._tables.host.shape[1]}
            sizes["last_page_len"] = self._batch
            buffers |= {
                f"paged_kv_{name}_buffer": torch.zeros(size, dtype=torch.int32, device=device)
                for name, size in sizes.items()
            }
            buffers["use_cuda_graph"] = True
        return BatchDecodeWithPagedKVCacheWrapper(self._workspace.buffer, "NHD", **buffers)

    def begin(self, rows: Rows, longest: int) -> None:
        """See `DecodeAttention.begin`."""
        # FlashInfer copies its plan from one piece of pinned memory: the copy before must have been made.
        self._planned.synchronize()
        page_size, table = self._cache.page_size, self._tables.host
        lengths = np.ones(len(rows.slots), dtype=np.int64)
        slots = np.full(len(rows.slots), len(table) - 1)
        lengths[: len(rows.host_lengths)], slots[: len(rows.host_slots)] = rows.host_lengths, rows.host_slots
        counts = -(-lengths // page_size)
        used = np.arange(table.shape[1]) < counts[:, None]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        layer, dtype = self._layer, self._cache.keys[0].dtype
        self._wrapper.plan(
            # Pinned: a copy from other memory would wait for the steps before.
            torch.from_numpy(starts).pin_memory(),
            # On the device already: FlashInfer would wait for the copy, and so for all steps before.
            upload(table[slots][used], self._workspace.buffer.device),
            torch.from_numpy((lengths - (counts - 1) * page_size).astype(np.int32)).pin_memory(),
            layer.num_query_heads,
            layer.num_heads,
            layer.key_size,
            page_size,
            q_data_type=dtype,
            kv_data_type=dtype,
            sm_scale=1.0,
        )
        self._planned.record()

    def attend(
        self, layer: int, query: torch.Tensor, *, rows: Rows, longest: int, scale: float, window: int | None
    ) -> torch.Tensor:
        """See `DecodeAttention.attend`."""
        attended: torch.Tensor = self._wrapper.run(query.contiguous(), self._pages[layer], q_scale=scale)
        return attended
