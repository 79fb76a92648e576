"""Builds an index of a run directory's keys, bucket by bucket: no process holds all of them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path

import numpy as np

from raydsinfer.runs.entries import ENTRY, FAILED, Bucket, Entries, bucket_bytes, bucket_of, unique
from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import (
    INDEX,
    KEYS,
    MANIFESTS,
    PARTS,
    ids_in,
    keys_file,
    manifest_file,
    new_id,
)
from raydsinfer.runs.parts import read_entries
from raydsinfer.runs.records import IndexRecord, Manifest, parsed, written

logger = logging.getLogger(__name__)

RECORD = "index.json"
"""File of an index that is written last."""

_BUCKET_ROWS = 2**18  # keys that one bucket should have: 6 MiB, sorted in memory
_MOST_BITS = 12  # as many buckets have their spool files open one after the other
_SPOOL_ROWS = 2**20  # keys that are read before they are put into their buckets: 24 MiB


def bucket_file(index: str, number: int) -> str:
    """File of a bucket."""
    return f"{INDEX}/{index}/bucket-{number:04d}"


def read_manifests(files: RunFiles) -> dict[str, Manifest]:
    """The parts that count, oldest first. Others are told to the log: their rows are computed anew.

    Raises:
        RunDirectoryError: The directory cannot be listed.
    """
    ids = ids_in(files.sizes(MANIFESTS), ".json")
    parts, keys = files.sizes(PARTS), files.sizes(KEYS)
    manifests = {}
    for part, content in zip(ids, files.get_all(map(manifest_file, ids)), strict=True):
        manifest = parsed(Manifest, content)
        if manifest is None:
            logger.warning("%s/%s is damaged: the part does not count", files.shown, manifest_file(part))
        elif parts.get(f"{part}.parquet") != manifest.part_bytes or keys.get(part) != manifest.keys_bytes:
            logger.warning("%s: part %s is missing or cut off: it does not count", files.shown, part)
        else:
            manifests[part] = manifest
    return manifests


def read_record(files: RunFiles, index: str) -> IndexRecord | None:
    """What an index holds; None if it is not whole."""
    record = next(files.get_all([f"{INDEX}/{index}/{RECORD}"]))
    return parsed(IndexRecord, record)


def build(files: RunFiles, manifests: Mapping[str, Manifest]) -> str:
    """Make an index of the parts' keys, or find one.

    Reads of each part the keys, and of those in the last index not even these.

    Args:
        files: Of the run directory.
        manifests: The parts, at least one.

    Returns:
        The index's id.

    Raises:
        RunDirectoryError: Keys are not as they were written, or nothing can be.
    """
    base = _newest(files, set(manifests))
    before = base[1].parts if base else []
    new = [part for part in manifests if part not in set(before)]
    if base is not None and not new:
        return base[0]
    num_rows = (base[1].num_rows if base else 0) + sum(manifests[part].num_rows for part in new)
    num_bits = min(_MOST_BITS, max(0, num_rows - 1).bit_length() - _BUCKET_ROWS.bit_length() + 1)
    index, num_bits = new_id(), max(0, num_bits)
    entries = _of_parts(files, {part: manifests[part] for part in new}, len(before))
    with tempfile.TemporaryDirectory(prefix="raydsinfer-keys-") as scratch:
        if base is not None:
            _spool(_of_index(files, *base), Path(scratch), num_bits)
        _spool(entries, Path(scratch), num_bits)
        record = _finish(files, index, Path(scratch), [*before, *new], num_bits)
    files.put(f"{INDEX}/{index}/{RECORD}", written(record))
    return index


def newest_of_all(files: RunFiles) -> str | None:
    """The last index, if it has every part that is there; that takes no look at a manifest."""
    listed = set(ids_in(files.sizes(MANIFESTS), ".json"))
    base = _newest(files, listed & set(ids_in(files.sizes(PARTS), ".parquet")))
    return base[0] if base is not None and set(base[1].parts) == listed else None


def _newest(files: RunFiles, parts: Set[str]) -> tuple[str, IndexRecord] | None:
    """The last index that is whole and holds nothing that counts no more."""
    for index in reversed(ids_in(files.sizes(INDEX))):
        record = read_record(files, index)
        sizes = files.sizes(f"{INDEX}/{index}")
        if record is not None and parts >= set(record.parts):
            wanted = {f"bucket-{i:04d}": n * ENTRY.itemsize for i, n in enumerate(record.bucket_rows)}
            if wanted.items() <= sizes.items():
                return index, record
    return None


def _of_parts(files: RunFiles, manifests: Mapping[str, Manifest], first: int) -> Iterator[Entries]:
    """Entries of parts, some parts together."""
    contents = files.get_all(map(keys_file, manifests))
    each = (
        read_entries(files, part, first + i, manifest, content)
        for i, ((part, manifest), content) in enumerate(zip(manifests.items(), contents, strict=True))
    )
    gathered: list[Entries] = []
    num_rows = 0
    for entries in each:
        gathered.append(entries)
        num_rows += len(entries)
        if num_rows >= _SPOOL_ROWS:
            yield np.concatenate(gathered)
            gathered, num_rows = [], 0
    if gathered:
        yield np.concatenate(gathered)


def _of_index(files: RunFiles, index: str, record: IndexRecord) -> Iterator[Entries]:
    for number, num_rows in enumerate(record.bucket_rows):
        yield Bucket.over(files.get(bucket_file(index, number)), num_rows).entries()


def _spool(chunks: Iterator[Entries], scratch: Path, num_bits: int) -> None:
    """Append entries to files of their buckets."""
    for entries in chunks:
        buckets = bucket_of(entries["high"], num_bits)
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(2**num_bits + 1))
        for number, (start, stop) in enumerate(pairwise(edges)):
            if start < stop:
                with open(scratch / str(number), "ab") as stream:
                    stream.write(entries[order[start:stop]].tobytes())


def _finish(files: RunFiles, index: str, scratch: Path, parts: Sequence[str], num_bits: int) -> IndexRecord:
    """Sort each bucket and write it."""
    files.make_folders([f"{INDEX}/{index}"])
    rows, num_errors = [], 0
    for number in range(2**num_bits):
        path = scratch / str(number)
        spooled = np.fromfile(path, ENTRY) if path.exists() else np.zeros(0, ENTRY)
        path.unlink(missing_ok=True)
        entries = unique(spooled)
        files.put(bucket_file(index, number), bucket_bytes(entries))
        rows.append(len(entries))
        num_errors += int((entries["row"] >= FAILED).sum())
    return IndexRecord(
        parts=list(parts), num_rows=sum(rows), num_errors=num_errors, num_bits=num_bits, bucket_rows=rows
    )
