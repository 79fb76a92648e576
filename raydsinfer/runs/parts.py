"""A part: answered rows in a Parquet file, their keys in another, and a manifest without which it does not count."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydsinfer.errors import InvalidSettingError, RunDirectoryError
from raydsinfer.rows.keys import KEY_BYTES
from raydsinfer.runs.entries import ENTRY, Entries
from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import keys_file, manifest_file, part_file
from raydsinfer.runs.records import Manifest, checksum, parsed

KEY_COLUMN = "__row_key__"
"""Column of a part's file that holds the rows' keys."""

_CACHE_BYTES = 64 * 2**20


def check_stored_names(names: Sequence[str]) -> None:
    """Check that columns can be stored.

    Raises:
        InvalidSettingError: One has the name that a run directory gives the keys.
    """
    if KEY_COLUMN in names:
        raise InvalidSettingError(
            name="keep_columns", value=KEY_COLUMN, expected="other names with a run directory", hint="Rename it first."
        )


def failed_rows(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows have an error, (rows,)."""
    if "error" not in table.column_names:
        return np.zeros(len(table), bool)
    has_error = pc.fill_null(pc.not_equal(table["error"].cast(pa.string()), ""), False)
    return np.array(has_error.to_pylist(), bool)


def num_tokens(table: pa.Table, name: str) -> int:
    """Sum of a column of numbers, or of lists of numbers; 0 if there is no such column."""
    if name not in table.column_names:
        return 0
    column = table[name]
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.list_flatten(column)
    return int(pc.sum(column).as_py() or 0)


def part_bytes(keys: Sequence[bytes], table: pa.Table) -> bytes:
    """The Parquet file of rows and their keys.

    Raises:
        pyarrow.ArrowException: A column is of a type that Parquet does not have.
    """
    key_column = pa.array(keys, pa.binary(KEY_BYTES))
    sink = pa.BufferOutputStream()
    pq.write_table(table.append_column(KEY_COLUMN, key_column), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


class PartReader:
    """Reads parts, each whole, because a batch of rows was mostly one before. Keeps the last ones. Thread-safe.

    Args:
        files: Of the run directory.
    """

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        self._num_bytes = 0

    def read(self, part: str) -> pa.Table:
        """All rows of a part, with `KEY_COLUMN`.

        Raises:
            RunDirectoryError: It is not there any more, or not as it was written.
        """
        with self._lock:
            if part in self._kept:
                self._kept.move_to_end(part)
                return self._kept[part]
        table = self._loaded(part)
        with self._lock:
            if part not in self._kept:  # another thread may have read it meanwhile
                self._kept[part] = table
                self._num_bytes += table.nbytes
            while len(self._kept) > 1 and self._num_bytes > _CACHE_BYTES:
                self._num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _loaded(self, part: str) -> pa.Table:
        manifest = parsed(Manifest, self._files.get(manifest_file(part)))
        content = self._files.get(part_file(part))
        if manifest is None or checksum(content) != manifest.part_sum:
            name = manifest_file(part) if manifest is None else part_file(part)
            raise damaged(self._files, name, part)
        return pq.read_table(pa.BufferReader(content))


def read_entries(files: RunFiles, part: str, number: int, manifest: Manifest, content: bytes | None) -> Entries:
    """The entries of a part.

    Args:
        files: Of the run directory.
        part: Its id.
        number: Its number in the index.
        manifest: What its files should be.
        content: Of its keys' file; None if that cannot be read.

    Raises:
        RunDirectoryError: They are not as they were written.
    """
    if content is None or checksum(content) != manifest.keys_sum or len(content) % ENTRY.itemsize:
        raise damaged(files, keys_file(part), part)
    entries: Entries = np.frombuffer(content, ENTRY).copy()
    entries["part"] = number
    return entries


def damaged(files: RunFiles, name: str, part: str) -> RunDirectoryError:
    """The error for a file that is not as it was written."""
    return RunDirectoryError(
        path=f"{files.shown}/{name}",
        reason="is not as it was written",
        hint=f"Remove {files.shown}/{manifest_file(part)} and start again: the rows of that part are computed anew.",
    )
