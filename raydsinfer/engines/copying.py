"""Copies mapped tensors to a device: lanes of threads read into pinned buffers while other buffers are on their way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch

CHUNK_BYTES = 32 * 2**20
"""Bytes that a lane stages at once: enough to hide what starting a copy costs."""

THREADS_A_LANE = 5
"""torch's threads in each lane. One lane of all threads waits for the slowest of them after every chunk; a lane for
each thread makes them wait for Python's lock."""

_BUFFERS_A_LANE = 2
_TASK_BYTES = 64 * 2**20  # what a lane takes at once: small enough that all lanes end together
_SMALL_BYTES = 64 * 2**10  # not worth a lane's attention


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
                self._local.stager = _Stager(self._device, self._chunk_bytes)
        except Exception as error:  # raised here it would be lost; this way `wait` gets it
            self._local.failure = error

    def copy(self, target: torch.Tensor, parts: Sequence[torch.Tensor], dim: int = 0) -> list[Future[Any]]:
        """Start to copy parts, which follow each other along `dim`, into `target`.

        Args:
            target: On the device; of any dtype and stride.
            parts: On the CPU, usually mapped; converted to the dtype of `target` on the device.
            dim: The dimension along which the parts are joined.

        Returns:
            What `wait` wants before `target` is used.
        """
        # The memory of the target may have been another tensor's, which the device still works on.
        ready = torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None
        started, at = [], 0
        for part in parts:
            goal = target.narrow(dim, at, part.shape[dim]) if len(parts) > 1 else target
            at += part.shape[dim] if part.dim() else 0
            if part.nbytes <= _SMALL_BYTES:
                goal.copy_(part)
                self._on_bytes(goal.nbytes)
                continue
            for region, piece in zip(*_split(*_as_matrices(goal, part), _TASK_BYTES), strict=True):
                started.append(self._pool.submit(self._copy_piece, region, piece, ready))
        return started

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
        event = None
        if self._local.failure is not None:
            raise self._local.failure
        if self._local.stager is None:
            region.copy_(piece)
        else:
            event = self._local.stager.copy(region, piece, ready)
        self._on_bytes(region.nbytes)
        return event


class _Stager:
    """A lane's way to the GPU: a stream of its own, and pinned buffers that are used in turns."""

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._device, self._turn = device, 0
        torch.cuda.set_device(device)
        stream: Any = torch.cuda.Stream  # has no annotations
        self._stream = stream(device)
        torch.cuda.set_stream(self._stream)  # of this thread only
        self._chunk_bytes = num_bytes
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(_BUFFERS_A_LANE)]
        event: Any = torch.cuda.Event
        self._sent = [event() for _ in range(_BUFFERS_A_LANE)]

    def copy(self, region: torch.Tensor, piece: torch.Tensor, ready: Any) -> Any:
        """Read a piece chunk by chunk, and send each on; returns the event of the last one's arrival.

        All of Python here runs under the lock that the lanes share: there is as little of it as can be.
        """
        direct = region.dtype == piece.dtype and region.is_contiguous()
        goals, chunks = _split(region, piece, self._chunk_bytes)
        staged = [self._staged(turn, chunks[0]) for turn in range(_BUFFERS_A_LANE)]
        self._stream.wait_event(ready)
        for goal, chunk in zip(goals, chunks, strict=True):
            turn = self._turn = (self._turn + 1) % _BUFFERS_A_LANE
            self._sent[turn].synchronize()
            buffer = staged[turn] if chunk.shape == chunks[0].shape else staged[turn][: len(chunk)]
            buffer.copy_(chunk)
            if direct:
                goal.copy_(buffer, non_blocking=True)
            else:  # converted or spread out, where that is fast
                goal.copy_(buffer.to(self._device, non_blocking=True))
            self._sent[turn].record()
        return self._stream.record_event()

    def _staged(self, turn: int, chunk: torch.Tensor) -> torch.Tensor:
        """A buffer in the shape of a chunk."""
        if chunk.nbytes > self._buffers[turn].nbytes:  # one row longer than a chunk
            self._sent[turn].synchronize()
            self._buffers[turn] = torch.empty(chunk.nbytes, dtype=torch.uint8, pin_memory=True)
        return self._buffers[turn][: chunk.nbytes].view(chunk.dtype).view(chunk.shape)


def _as_matrices(target: Any, part: Any) -> tuple[Any, Any]:
    """Stacked matrices, like a layer's experts, as one, so that a row is never larger than a buffer for long."""
    if part.dim() < 3 or not (part.is_contiguous() and target.is_contiguous()):
        return target, part
    return target.view(-1, target.shape[-1]), part.view(-1, part.shape[-1])


def _split(target: Any, part: Any, num_bytes: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """Cut a copy into pieces of whole rows."""
    rows = max(1, num_bytes // part[0].nbytes)
    return target.split(rows), part.split(rows)


def reader_threads(local_world_size: int) -> int:
    """Threads for one rank to read with, when so many ranks of its gang share the node's processors."""
    return max(1, len(os.sched_getaffinity(0)) // local_world_size)
