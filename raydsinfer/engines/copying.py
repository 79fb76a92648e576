"""Copies mapped tensors to a device through pinned staging buffers, reading and sending at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch

STAGING_BYTES = 32 * 2**20
"""Bytes of one of the two staging buffers: enough to hide what starting a copy costs, cheap to pin."""


class Copier:
    """Copies parts of mapped tensors into tensors of one device. A context manager.

    On a GPU torch's threads read a part into a pinned buffer while the other buffer is on its way.
    Everything is queued on the current stream, so what that does next sees the values.

    Args:
        device: torch device of the destinations.
        num_threads: Threads that read.
        on_bytes: Told of each piece how many bytes it had.
        staging_bytes: Size of each of the two buffers.
    """

    def __init__(
        self,
        device: str,
        num_threads: int,
        on_bytes: Callable[[int], None] = lambda num_bytes: None,
        staging_bytes: int = STAGING_BYTES,
    ) -> None:
        self._device, self._num_threads, self._staging_bytes = torch.device(device), num_threads, staging_bytes
        self._buffers: list[_Buffer] = []
        self._on_bytes = on_bytes

    def __enter__(self) -> Copier:
        # A process that Ray started has one thread.
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        if self._device.type == "cuda":
            self._buffers = [_Buffer(self._staging_bytes) for _ in range(2)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._buffers:
            torch.cuda.current_stream(self._device).synchronize()
            self._buffers = []
        torch.set_num_threads(self._threads_before)

    def copy(self, target: torch.Tensor, parts: Sequence[torch.Tensor], dim: int = 0) -> None:
        """Copy parts, which follow each other along `dim`, into `target`.

        Args:
            target: On the device; of any dtype and stride.
            parts: On the CPU, usually mapped; converted to the dtype of `target` on the device.
            dim: The dimension along which the parts are joined.
        """
        at = 0
        for part in parts:
            goal = target.narrow(dim, at, part.shape[dim]) if len(parts) > 1 else target
            at += part.shape[dim] if part.dim() else 0
            for region, chunk in _chunks(goal, part, self._staging_bytes):
                if self._buffers:
                    self._send(region, chunk)
                else:
                    region.copy_(chunk)
                self._on_bytes(chunk.numel() * chunk.element_size())

    def _send(self, region: torch.Tensor, chunk: torch.Tensor) -> None:
        if not self._buffers[0].has_room(chunk):
            self._buffers[0].seal()
            self._buffers.reverse()
            self._buffers[0].reuse(chunk)
        staged = self._buffers[0].stage(chunk)
        if region.dtype == chunk.dtype and region.is_contiguous():
            region.copy_(staged, non_blocking=True)
        else:  # converted or spread out, where that is fast
            region.copy_(staged.to(self._device, non_blocking=True))


class _Buffer:
    """Pinned memory that small tensors share; large ones come in chunks."""

    _ALIGNMENT = 256  # of a GPU's copies at full speed

    def __init__(self, num_bytes: int) -> None:
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self._used, self._sent = 0, torch.cuda.Event()  # type: ignore[no-untyped-call]

    def has_room(self, chunk: torch.Tensor) -> bool:
        """Whether a chunk fits beside what was staged since the last `reuse`."""
        return self._used + chunk.numel() * chunk.element_size() <= self._memory.numel()

    def stage(self, chunk: torch.Tensor) -> torch.Tensor:
        """Read a chunk into the buffer; returns the copy."""
        num_bytes = chunk.numel() * chunk.element_size()
        staged = self._memory[self._used : self._used + num_bytes].view(chunk.dtype).view(chunk.shape)
        self._used += -(-num_bytes // self._ALIGNMENT) * self._ALIGNMENT
        return staged.copy_(chunk)

    def seal(self) -> None:
        """Note that all that is in the buffer was queued."""
        self._sent.record()

    def reuse(self, chunk: torch.Tensor) -> None:
        """Start from the beginning, once what was in it has arrived; grow if one row is longer than the buffer."""
        self._sent.synchronize()
        self._used = 0
        if not self.has_room(chunk):
            self._memory = torch.empty(chunk.numel() * chunk.element_size(), dtype=torch.uint8, pin_memory=True)


def _chunks(target: torch.Tensor, part: torch.Tensor, chunk_bytes: int) -> Iterator[tuple[Any, Any]]:
    """Cut a copy into pieces of whole rows."""
    if part.numel() == 0:
        return
    if part.dim() == 0:
        yield target, part
        return
    rows = max(1, chunk_bytes // (part[0].numel() * part.element_size()))
    for start in range(0, part.shape[0], rows):
        size = min(rows, part.shape[0] - start)
        yield target.narrow(0, start, size), part.narrow(0, start, size)


def reader_threads(local_world_size: int) -> int:
    """Threads for one rank to read with, when so many ranks of its gang share the node's processors."""
    return max(1, len(os.sched_getaffinity(0)) // local_world_size)
