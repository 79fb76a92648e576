"""Copies mapped tensors to a device: lanes of threads read into pinned buffers while other buffers are on their way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from raydsinfer.engines.staging import Stager, split_rows

CHUNK_BYTES = 32 * 2**20
"""Bytes that a lane stages at once: enough to hide what starting a copy costs."""

THREADS_A_LANE = 4
"""torch's threads in each lane. One lane of all threads waits for the slowest of them after every chunk; a lane for
each thread needs many pinned buffers, and makes them wait for Python's lock."""

_TASK_BYTES = 64 * 2**20  # what a lane takes at once: small enough that all lanes end together
_SMALL_BYTES = 256 * 2**10  # up to here tensors are sent in batches
_BATCH_BYTES = 2**20


@dataclass(frozen=True)
class Copy:
    """What to copy where.

    Args:
        target: On the device; of any dtype and stride.
        parts: On the CPU, usually mapped; converted to the dtype of `target` on the device.
        dim: The dimension along which the parts are joined.
    """

    target: torch.Tensor
    parts: Sequence[torch.Tensor]
    dim: int = 0

    def regions(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each part, after the region of the target where it belongs."""
        if len(self.parts) == 1:
            yield self.target, self.parts[0]
            return
        sizes = [part.shape[self.dim] for part in self.parts]
        yield from zip(torch.split(self.target, sizes, self.dim), self.parts, strict=True)


_Pair = tuple[torch.Tensor, torch.Tensor]


class Copier:
    """Copies parts of mapped tensors into tensors of one device. A context manager.

    Opened early, it pins its buffers in the background.

    Args:
        device: torch device of the destinations.
        num_threads: Threads that read.
        on_bytes: Told of each piece how many bytes it has in the target's dtype, in any thread.
        threads_a_lane: How many of them work on one chunk together.
        chunk_bytes: Most bytes of a chunk.
    """

    def __init__(
        self,
        device: str,
        num_threads: int,
        on_bytes: Callable[[int], None] = lambda num_bytes: None,
        threads_a_lane: int = THREADS_A_LANE,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._device, self._on_bytes, self._chunk_bytes = torch.device(device), on_bytes, chunk_bytes
        self._num_lanes = max(1, num_threads // threads_a_lane)
        self._threads_a_lane = max(1, num_threads // self._num_lanes)
        self._local = threading.local()

    def __enter__(self) -> Copier:
        self._threads_before = torch.get_num_threads()  # a process that Ray started has one
        self._pool = ThreadPoolExecutor(self._num_lanes, "weights", initializer=self._open_lane)
        for _ in range(self._num_lanes):  # so that the lanes open now
            self._pool.submit(int)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def _open_lane(self) -> None:
        self._local.failure = self._local.stager = None
        try:
            torch.set_grad_enabled(False)
            torch.set_num_threads(self._threads_a_lane)
            if self._device.type == "cuda":
                self._local.stager = Stager(self._device, self._chunk_bytes)
        except Exception as error:  # raised here it would be lost; this way `wait` gets it
            self._local.failure = error

    def start(self, copies: Iterable[Copy]) -> list[Future[Any]]:
        """Start to copy; returns what `wait` wants before the targets are used."""
        # The memory of a target may have been another tensor's, which the device still works on.
        ready = torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None
        started: list[Future[Any]] = []
        batches: dict[torch.dtype, list[_Pair]] = {}
        for region, part in (pair for copy in copies for pair in copy.regions()):
            if part.nbytes > _SMALL_BYTES:
                pieces = zip(*split_rows(*_as_matrices(region, part), _TASK_BYTES), strict=True)
                started += [self._pool.submit(self._copy_piece, *pair, ready) for pair in pieces]
                continue
            batch = batches.setdefault(part.dtype, [])
            batch.append((region, part))
            if sum(part.nbytes for _, part in batch) >= _BATCH_BYTES:
                started.append(self._pool.submit(self._copy_batch, batches.pop(part.dtype), ready))
        return started + [self._pool.submit(self._copy_batch, batch, ready) for batch in batches.values()]

    def wait(self, started: Sequence[Future[Any]]) -> None:
        """Wait until copies are done; on a GPU, until what the current stream does next will see them."""
        for future in started:
            event = future.result()
            if event is not None:
                torch.cuda.current_stream(self._device).wait_event(event)

    def finish(self) -> None:
        """Wait until all that was waited for has arrived on the device."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _copy_piece(self, region: torch.Tensor, piece: torch.Tensor, ready: Any) -> Any:
        event, stager = None, self._stager()
        if stager is None:
            region.copy_(piece)
        else:
            event = stager.copy(region, piece, ready)
        self._on_bytes(region.nbytes)
        return event

    def _copy_batch(self, batch: Sequence[_Pair], ready: Any) -> Any:
        event, stager = None, self._stager()
        if stager is None:
            for region, part in batch:
                region.copy_(part)
        else:
            event = stager.copy_batch(batch, ready)
        self._on_bytes(sum(region.nbytes for region, _ in batch))
        return event

    def _stager(self) -> Stager | None:
        """This lane's; None without a GPU."""
        if self._local.failure is not None:
            raise self._local.failure
        stager: Stager | None = self._local.stager
        return stager


def _as_matrices(target: Any, part: Any) -> tuple[Any, Any]:
    """Stacked matrices, like a layer's experts, as one, so that a row is never larger than a buffer for long."""
    if part.dim() < 3 or not (part.is_contiguous() and target.is_contiguous()):
        return target, part
    return target.view(-1, target.shape[-1]), part.view(-1, part.shape[-1])


def reader_threads(local_world_size: int) -> int:
    """Threads for one rank to read with, when so many ranks of its gang share the node's processors."""
    return max(1, len(os.sched_getaffinity(0)) // local_world_size)
