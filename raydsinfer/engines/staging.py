"""The way of one lane to the GPU: a stream of its own, and pinned buffers that are used in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_BUFFERS_A_LANE = 2


class Stager:
    """Brings tensors of ordinary or mapped memory to a GPU. Belongs to the thread that made it.

    All of Python here runs under the lock that the lanes share: there is as little of it as can be.

    Args:
        device: The GPU.
        num_bytes: Of each buffer; the most that is sent at once, except for rows that are longer.
    """

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._device, self._turn, self._chunk_bytes = device, 0, num_bytes
        torch.cuda.set_device(device)
        stream: Any = torch.cuda.Stream  # has no annotations
        self._stream = stream(device)
        torch.cuda.set_stream(self._stream)  # of this thread only
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(_BUFFERS_A_LANE)]
        event: Any = torch.cuda.Event
        self._sent = [event() for _ in range(_BUFFERS_A_LANE)]

    def copy(self, region: torch.Tensor, piece: torch.Tensor, ready: Any) -> Any:
        """Read a piece chunk by chunk, and send each on.

        Args:
            region: On the GPU; of any dtype and stride.
            piece: On the CPU, of the same shape.
            ready: Event after which the memory of the region is free.

        Returns:
            The event of the last chunk's arrival.
        """
        direct = region.dtype == piece.dtype and region.is_contiguous()
        goals, chunks = split_rows(region, piece, self._chunk_bytes)
        staged = [self._staged(turn, chunks[0]) for turn in range(_BUFFERS_A_LANE)]
        self._stream.wait_event(ready)
        for goal, chunk in zip(goals, chunks, strict=True):
            turn = self._next_turn()
            buffer = staged[turn] if chunk.shape == chunks[0].shape else staged[turn][: len(chunk)]
            buffer.copy_(chunk)
            if direct:
                goal.copy_(buffer, non_blocking=True)
                self._sent[turn].record()
            else:  # converted or spread out, where that is fast
                arrived = buffer.to(self._device, non_blocking=True)
                self._sent[turn].record()
                goal.copy_(arrived)
        return self._stream.record_event()

    def copy_batch(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], ready: Any) -> Any:
        """Send small tensors of one dtype together: one by one, each would queue behind the chunks of all lanes.

        Args:
            pairs: A region on the GPU, of any dtype and stride, and a tensor of its shape on the CPU.
            ready: Event after which the memory of the regions is free.

        Returns:
            The event of their arrival.
        """
        flat = [part.reshape(-1) for _, part in pairs]
        turn = self._next_turn()
        buffer = self._buffer(turn, sum(part.nbytes for part in flat)).view(flat[0].dtype)
        torch.cat(flat, out=buffer)
        self._stream.wait_event(ready)
        arrived = buffer.to(self._device, non_blocking=True)
        self._sent[turn].record()
        for (region, _), values in zip(pairs, torch.split(arrived, [len(part) for part in flat]), strict=True):
            region.copy_(values.view(region.shape))
        return self._stream.record_event()

    def _next_turn(self) -> int:
        """The buffer to use now; what it held has been sent."""
        self._turn = (self._turn + 1) % _BUFFERS_A_LANE
        self._sent[self._turn].synchronize()
        return self._turn

    def _staged(self, turn: int, chunk: torch.Tensor) -> torch.Tensor:
        """A buffer in the shape of a chunk."""
        return self._buffer(turn, chunk.nbytes).view(chunk.dtype).view(chunk.shape)

    def _buffer(self, turn: int, num_bytes: int) -> torch.Tensor:
        if num_bytes > self._buffers[turn].nbytes:  # one row longer than a chunk
            self._sent[turn].synchronize()
            self._buffers[turn] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        return self._buffers[turn][:num_bytes]


def split_rows(target: Any, part: Any, num_bytes: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """Cut a copy into pieces of whole rows, of about so many bytes at most."""
    rows = max(1, num_bytes // part[0].nbytes)
    return target.split(rows), part.split(rows)
