"""Decides which part of which tensor goes into which file, in which order. Nothing is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from raydsinfer.checkpoints.resharding.plan import Entry, OutputFile, Plan, PlannedEntry, Stripe
from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.checkpoints.tensors import ITEM_BYTES, WHOLE, Slice
from raydsinfer.errors import InvalidSettingError

_LAYER = re.compile(r"^(?:[^.]+\.)*?\d+\.")

AnyEntry = TypeVar("AnyEntry", bound=PlannedEntry)

Row: TypeAlias = tuple[Entry, ...]
"""One tensor: an entry for each owner of files."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A tensor of the source, with the dtype it shall have.

    Args:
        name: Its name.
        dtype: In the output.
        shape: Of the whole.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def entry(self, part: Slice) -> Entry:
        """The entry of one part in an output file."""
        return Entry(name=self.name, dtype=self.dtype, shape=part.shape_of(self.shape), part=part)


def layer_of(name: str) -> str | None:
    """The decoder layer that a tensor belongs to: its name up to the first number, None for other tensors."""
    found = _LAYER.match(name)
    return found[0].removesuffix(".") if found else None


def plan_layers(tensors: Iterable[Wanted], max_shard_bytes: int) -> Plan[OutputFile]:
    """Each decoder layer in a file of its own, the other tensors in files before them.

    Raises:
        InvalidSettingError: A layer is larger than a file may be; layers are never split.
    """
    others: list[Row] = []
    layers: dict[str, list[Row]] = {}
    for tensor in tensors:
        layer = layer_of(tensor.name)
        rows = others if layer is None else layers.setdefault(layer, [])
        rows.append((tensor.entry(WHOLE),))
    for layer, rows in layers.items():
        size = OutputFile(name="", entries=tuple(entry for (entry,) in rows)).num_bytes
        if size > max_shard_bytes:
            raise InvalidSettingError(
                name="max_shard_size",
                value=size_in_words(max_shard_bytes),
                expected=f"at least {size} bytes ({size_in_words(size)}): layer {layer} needs them, and is not split",
            )
    contents = [
        *sharded(_aligned(others), max_shard_bytes),
        *(_aligned(layers[layer]) for layer in sorted(layers, key=_by_number)),
    ]
    return Plan(tuple(_stripes(contents, [""])))


def plan_ranks(
    tensors: Iterable[Wanted], rules: Mapping[str, Sequence[Slice]], tp_size: int, max_shard_bytes: int
) -> Plan[OutputFile]:
    """Files of what all ranks keep whole, then files of each rank's own parts.

    Args:
        tensors: What to write.
        rules: Tensor name → the part that each rank keeps.
        tp_size: Number of ranks.
        max_shard_bytes: A file larger than this holds a single tensor.
    """
    rows = [tuple(tensor.entry(part) for part in rules[tensor.name]) for tensor in tensors]
    shared = [row[:1] for row in rows if all(entry.part.dim is None for entry in row)]
    cut = [row for row in rows if any(entry.part.dim is not None for entry in row)]
    ranks = [f"rank-{rank:03d}-of-{tp_size:03d}-" for rank in range(tp_size)]
    return Plan(
        (
            *_stripes(list(sharded(_aligned(shared), max_shard_bytes)), ["shared-"]),
            *_stripes(list(sharded(_aligned(cut), max_shard_bytes)), ranks),
        )
    )


def _by_number(layer: str) -> tuple[str, int]:
    prefix, _, number = layer.rpartition(".")
    return prefix, int(number)


def _stripes(shards: list[list[Row]], owners: Sequence[str]) -> Iterator[Stripe[OutputFile]]:
    """A stripe a shard, with a file an owner."""
    for i, shard in enumerate(shards, 1):
        names = [f"model-{owner}{i:05d}-of-{len(shards):05d}.safetensors" for owner in owners]
        columns = zip(*shard, strict=True)
        yield Stripe(
            tuple(OutputFile(name=name, entries=entries) for name, entries in zip(names, columns, strict=True))
        )


def sharded(rows: Iterable[tuple[AnyEntry, ...]], max_shard_bytes: int) -> Iterator[list[tuple[AnyEntry, ...]]]:
    """Cut a sequence of rows where one more would make the file of some owner too large."""
    shard: list[tuple[AnyEntry, ...]] = []
    sizes: tuple[int, ...] = ()
    for row in rows:
        # Generous for what the header says of a tensor: sizes are at most what was asked for.
        more = tuple(entry.num_bytes + len(entry.name.encode()) * 6 + 512 for entry in row)
        longer = tuple(a + b for a, b in zip(sizes, more, strict=True)) if shard else more
        if shard and max(longer) > max_shard_bytes:
            yield shard
            shard, longer = [], more
        shard.append(row)
        sizes = longer
    if shard:
        yield shard


def _aligned(rows: Iterable[Row]) -> list[Row]:
    """Large elements before small ones, else as they came: no tensor starts at a fraction of its element."""
    return sorted(rows, key=lambda row: -ITEM_BYTES[row[0].dtype])
