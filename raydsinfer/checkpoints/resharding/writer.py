"""Writes files of tensors as a stream, and reads them back: what was written is what is on the disk."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydsinfer.checkpoints.resharding.blocks import BLOCK_BYTES, blocks, convert, raw_bytes
from raydsinfer.checkpoints.resharding.plan import Entry, OutputFile, Stripe
from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.ranks_index import FileSum
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    import torch


class Writer(ABC):
    """Writes stripes of files; several threads may, each another stripe.

    Args:
        description: The source.
        directory: Where the files go.
        scratch: For what is put together before it is written, and for copies of the source's files that cannot be
            mapped as they are.
        on_bytes: Called after each block with the number of bytes written; may raise to stop.
        check: Called after each block that was read back; may raise to stop.
    """

    def __init__(
        self,
        description: Description,
        directory: Path,
        *,
        scratch: Path,
        on_bytes: Callable[[int], None],
        check: Callable[[], None],
    ) -> None:
        self._description, self._directory = description, directory
        self._scratch, self._on_bytes, self._check = scratch, on_bytes, check

    @abstractmethod
    def write(self, stripe: Any) -> dict[str, FileSum]:
        """Write the files of a stripe and read them back.

        Returns:
            File name → size and checksum.

        Raises:
            CheckpointError: A value is too large for the dtype that was asked for.
            OutputError: What is on the disk is not what was written.
            OSError: The disk does not take it.
        """


class StripeWriter(Writer):
    """Writes safetensors files, tensor by tensor, block by block."""

    def write(self, stripe: Stripe[OutputFile]) -> dict[str, FileSum]:
        """See `Writer.write`."""
        with ExitStack() as stack:
            sinks = [stack.enter_context(Sink(self._directory / file.name, file.header())) for file in stripe.files]
            for row in zip(*(file.entries for file in stripe.files), strict=True):
                with self._mapped(row[0].name) as tensor:
                    for sink, entry in zip(sinks, row, strict=True):
                        self._copy(tensor, entry, sink)
        return {sink.path.name: sink.verified(self._check) for sink in sinks}

    @contextmanager
    def _mapped(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor of the source; its pages are given back before the next is touched."""
        with TensorReader(self._description, tp_size=self._description.tp_size or 1, scratch=self._scratch) as reader:
            yield reader.read(name)

    def _copy(self, tensor: torch.Tensor, entry: Entry, sink: Sink) -> None:
        import torch

        dtype: torch.dtype = getattr(torch, entry.dtype)
        for block in blocks(tensor, entry.part):
            if block.dtype != dtype:
                block, num_infinite = convert(block, dtype)
                if num_infinite:
                    raise too_large(self._description.directory, entry.name, tensor, dtype)
            sink.write(raw_bytes(block))
            self._on_bytes(block.nbytes)


def too_large(path: Path, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> CheckpointError:
    """The error of a tensor with values that another dtype cannot hold.

    Args:
        path: The source.
        name: The tensor's name.
        tensor: Its values.
        dtype: What it should become.
    """
    import torch

    count, largest = 0, 0.0
    for block in blocks(tensor, WHOLE):
        count += convert(block, dtype)[1]
        largest = max(largest, float(block[block.isfinite()].abs().max()) if block.isfinite().any() else 0.0)
    return CheckpointError(
        path=str(path),
        reason=f"{count} of {tensor.numel()} values of {name} do not fit {str(dtype).removeprefix('torch.')} "
        f"(largest {largest:.6g}, limit {torch.finfo(dtype).max:.6g})",
        hint="Choose another dtype: bfloat16 and float32 reach further than float16.",
    )


class Sink:
    """A file that is being written; a context manager that removes what was not finished.

    Args:
        path: The file.
        header: What it begins with.
    """

    def __init__(self, path: Path, header: bytes = b"") -> None:
        self.path, self._header = path, header
        self._hash, self._num_bytes = hashlib.sha256(), 0

    def __enter__(self) -> Sink:
        self._stream = self.path.open("wb")
        self.write(self._header)
        return self

    def write(self, data: Any) -> int:
        """Append; returns the number of bytes."""
        self._stream.write(data)
        self._hash.update(data)
        self._num_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: it happens at the end. `torch.save` asks for it."""

    def verified(self, check: Callable[[], None]) -> FileSum:
        """Size and checksum of what was written, compared with what is on the disk.

        Args:
            check: Called after each block that was read back; may raise to stop.

        Raises:
            OutputError: They differ.
        """
        found = sum_of(self.path, check)
        if found != FileSum(bytes=self._num_bytes, sha256=self._hash.hexdigest()):
            raise OutputError(
                path=str(self.path),
                reason="what was read back is not what was written",
                hint="Check the disk, then run again.",
            )
        return found

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with self._stream:
                self._stream.flush()
                os.fsync(self._stream.fileno())
        except OSError:
            self.path.unlink(missing_ok=True)
            if kind is None:
                raise
        if kind is not None:
            self.path.unlink(missing_ok=True)  # gives its space back at once


def sum_of(path: Path, check: Callable[[], None]) -> FileSum:
    """Size and checksum of a file, read from the disk rather than from memory where the system can.

    Args:
        path: The file.
        check: Called after each block; may raise to stop.
    """
    digest, num_bytes = hashlib.sha256(), 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            num_bytes += count
            check()
    return FileSum(bytes=num_bytes, sha256=digest.hexdigest())
