"""Writes files of fused tensors as torch pickles them, and reads them back.

`torch.save` wants whole tensors. They are put together in files that are mapped: host memory holds them only as
pages that the system may write out.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raydsinfer.checkpoints.resharding.blocks import BLOCK_BYTES, convert
from raydsinfer.checkpoints.resharding.fused import FusedTensor, PickledFile, Region
from raydsinfer.checkpoints.resharding.plan import Stripe
from raydsinfer.checkpoints.resharding.writer import Sink, Writer, too_large
from raydsinfer.checkpoints.weights.ranks_index import FileSum
from raydsinfer.checkpoints.weights.reader import TensorReader

if TYPE_CHECKING:
    import torch


class PickleWriter(Writer):
    """Writes files of fused tensors."""

    def write(self, stripe: Stripe[PickledFile]) -> dict[str, FileSum]:
        """See `Writer.write`."""
        return {file.name: self._write(file) for file in stripe.files}

    def _write(self, file: PickledFile) -> FileSum:
        import torch

        state: OrderedDict[str, torch.Tensor] = OrderedDict()
        for entry in file.entries:
            tensor = self._put_together(entry)
            state.update(dict.fromkeys(entry.names, tensor))
        with Sink(self._directory / file.name) as sink:
            torch.save(state, sink)  # type: ignore[arg-type]
        return sink.verified(self._check)

    def _put_together(self, entry: FusedTensor) -> torch.Tensor:
        tensor = self._mapped(entry)
        for region in entry.regions:
            # Opened for each: the pages of the source are given back before the next is touched.
            with TensorReader(self._description, scratch=self._scratch, tp_size=self._description.tp_size or 1) as own:
                self._fill(tensor, region, own.read(region.source))
        return tensor

    def _mapped(self, entry: FusedTensor) -> torch.Tensor:
        """An empty tensor in a file that has no name any more: it ends with the tensor."""
        import torch

        self._scratch.mkdir(exist_ok=True)
        path = self._scratch / f"{uuid.uuid4().hex}.tensor"
        try:
            with path.open("wb") as file:  # all of it now: a disk that fills later would end the process by a signal
                os.posix_fallocate(file.fileno(), 0, max(1, entry.num_bytes))
            storage = torch.UntypedStorage.from_file(str(path), True, max(1, entry.num_bytes))
        finally:
            path.unlink(missing_ok=True)
        return torch.empty(0, dtype=getattr(torch, entry.dtype)).set_(storage, 0, entry.shape)  # type: ignore[call-overload, no-any-return]

    def _fill(self, tensor: torch.Tensor, region: Region, whole: torch.Tensor) -> None:
        target = tensor.as_strided(region.shape, region.stride, region.offset)
        for goal, part in _blocks(target, whole, region):
            values, num_infinite = (part, 0) if part.dtype == tensor.dtype else convert(part, tensor.dtype)
            if num_infinite:
                raise too_large(self._description.directory, region.source, whole, tensor.dtype)
            goal.copy_(values)
            self._on_bytes(goal.nbytes)


def _blocks(target: torch.Tensor, whole: torch.Tensor, region: Region) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The part of a tensor that a region takes, block by block, each after the elements that it fills."""
    import torch

    dim, at = region.part.dim or 0, 0
    ranges = region.part.ranges if region.part.dim is not None else ((0, whole.shape[0]),)
    for start, stop in ranges:
        goal, part = target.narrow(dim, at, stop - start), whole.narrow(dim, start, stop - start)
        at += stop - start
        rows = max(1, BLOCK_BYTES // max(1, part[:1].nbytes))
        yield from zip(torch.split(goal, rows), torch.split(part, rows), strict=True)
