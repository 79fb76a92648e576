"""A plan of a reshard: the files that it writes, their tensors, headers and sizes, before a byte is there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Protocol, TypeVar

from raydsinfer.checkpoints.tensors import FORMAT_NAMES, ITEM_BYTES, WHOLE, Slice

CONVERTIBLE = ("float16", "bfloat16", "float32", "float64")
"""Dtypes that become another when one is asked for; all others stay."""


class PlannedEntry(Protocol):
    """A tensor of a file."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""


class PlannedFile(Protocol):
    """A file to write, of any form."""

    @property
    def name(self) -> str:
        """Its name in the target."""

    @property
    def entries(self) -> Sequence[PlannedEntry]:
        """Its tensors."""

    @property
    def num_bytes(self) -> int:
        """Its size, or somewhat more."""

    @property
    def exact_bytes(self) -> int | None:
        """Its size; None if that is known only when it is written."""

    @property
    def scratch_bytes(self) -> int:
        """Space that it takes beside its own while it is written."""


AnyFile = TypeVar("AnyFile", bound=PlannedFile)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of an output file.

    Args:
        name: Its name, in the source and in the file.
        dtype: In the file.
        shape: In the file.
        part: Which part of the source's tensor it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    part: Slice = WHOLE

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """A safetensors file to write.

    Args:
        name: Its name in the target.
        entries: Its tensors, in the order of their bytes.
    """

    name: str
    entries: tuple[Entry, ...]

    def header(self) -> bytes:
        """What stands before the bytes of the tensors."""
        described: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        for entry in self.entries:
            span = [position, position + entry.num_bytes]
            described[entry.name] = {
                "dtype": FORMAT_NAMES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": span,
            }
            position = span[1]
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the first tensor starts at a multiple of eight
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header()) + sum(entry.num_bytes for entry in self.entries)

    @property
    def exact_bytes(self) -> int:
        """Size of the file."""
        return self.num_bytes

    @property
    def scratch_bytes(self) -> int:
        """None: tensors go from the source into the file."""
        return 0


@dataclass(frozen=True)
class Stripe(Generic[AnyFile]):
    """Files that are written together, tensor by tensor: one, or one a rank, so that each tensor is read once.

    Args:
        files: They hold parts of the same tensors in the same order.
    """

    files: tuple[AnyFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the files together."""
        return sum(file.num_bytes for file in self.files)


@dataclass(frozen=True)
class Plan(Generic[AnyFile]):
    """All files of weights that a reshard writes.

    Args:
        stripes: In the order of writing; each is whole or is written again.
    """

    stripes: tuple[Stripe[AnyFile], ...]

    @property
    def files(self) -> tuple[AnyFile, ...]:
        """The files, in the order of writing."""
        return tuple(file for stripe in self.stripes for file in stripe.files)

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(stripe.num_bytes for stripe in self.stripes)

    def as_text(self) -> str:
        """The plan in words that are equal only if the plan is."""
        return json.dumps(asdict(self))
