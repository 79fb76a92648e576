"""One file from its source to this node: resumed, counted, checked, and whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from threading import Event
from types import TracebackType

from raydsinfer.checkpoints.sources.checksums import Hasher
from raydsinfer.checkpoints.sources.remote import RemoteFile, Store
from raydsinfer.checkpoints.sources.remote_errors import WAITS_S, explained, may_pass
from raydsinfer.errors import CorruptCheckpointError

CHUNK_BYTES = 16 * 2**20
"""Asked for at a time."""

_LEAST_BYTES = 256 * 1024  # asked for at a time where connections break all the time


def transfer(store: Store, file: RemoteFile, directory: Path, add: Callable[[int], None], stop: Event) -> int:
    """Bring a file into a directory. Bytes that an earlier attempt left as ``NAME.part`` are not fetched again.

    Args:
        store: Where it is.
        file: Which file.
        directory: Where to; the name appears when all of it is there and its checksum was right.
        add: Called with the number of bytes that are there now besides those before; below zero if some
            had to be thrown away.
        stop: Set to give up.

    Returns:
        Bytes that were fetched.

    Raises:
        CheckpointError: The store failed, too often if that may pass.
        CorruptCheckpointError: What came is not what was announced; it is not kept.
        OSError: The disk does not take it.
        CancelledError: `stop` was set.
    """
    target = directory / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with PartialFile(target, file, add) as part:
        if not file.ranges or not _in_pieces(store, file, part, stop):
            _in_one_go(store, file, part, stop)
    part.finish(store.shown)
    return part.num_written


class PartialFile:
    """``NAME.part``, which becomes ``NAME``. A context manager; kept when something goes wrong.

    Args:
        target: The file that it becomes.
        file: What it has to be.
        add: See `transfer`.

    Attributes:
        num_bytes: Bytes that are there.
        num_written: Bytes that were written, thrown away or not.
    """

    def __init__(self, target: Path, file: RemoteFile, add: Callable[[int], None]) -> None:
        self._target, self._file, self._add = target, file, add
        self._path = target.with_name(target.name + ".part")
        self.num_bytes = self.num_written = 0
        self._hasher = self._new_hasher()

    def __enter__(self) -> PartialFile:
        self._out = self._path.open("a+b")
        try:
            self._out.seek(0)
            while data := self._out.read(CHUNK_BYTES):
                self._count(data)
            if not self._file.ranges or self.num_bytes > (self._file.num_bytes or 0):
                self.restart()
        except BaseException:
            self._out.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._out:
            if error is None:
                os.fsync(self._out.fileno())

    def write(self, data: bytes) -> None:
        """Append."""
        self._out.write(data)
        self._out.flush()
        self.num_written += len(data)
        self._count(data)

    def restart(self) -> None:
        """Throw away what is there."""
        self._out.truncate(0)
        self._add(-self.num_bytes)
        self.num_bytes, self._hasher = 0, self._new_hasher()

    def finish(self, where: str) -> None:
        """Give the file its name if it is what was announced, else remove it.

        Raises:
            CorruptCheckpointError: It is not.
        """
        wrong = self._what_is_wrong()
        if wrong:
            self._path.unlink()
            raise CorruptCheckpointError(
                path=f"{where.rstrip('/')}/{self._file.name}",
                reason=wrong,
                hint="It was not kept. Fetch again; if it differs again, the file is damaged where it comes from.",
            )
        self._path.replace(self._target)

    def _what_is_wrong(self) -> str:
        if self._file.num_bytes not in (None, self.num_bytes):
            return f"{self.num_bytes} bytes came instead of {self._file.num_bytes}"
        expected = self._file.checksum
        if expected is not None and self._hasher is not None and self._hasher.digest().hex() != expected.digest:
            return f"its {expected.algorithm} is {self._hasher.digest().hex()} instead of {expected.digest}"
        return ""

    def _new_hasher(self) -> Hasher | None:
        return self._file.checksum.hasher() if self._file.checksum else None

    def _count(self, data: bytes) -> None:
        self.num_bytes += len(data)
        if self._hasher is not None:
            self._hasher.update(data)
        self._add(len(data))


def _in_pieces(store: Store, file: RemoteFile, part: PartialFile, stop: Event) -> bool:
    """Fetch what is missing, less at a time while that fails; False if the server sends whole files only."""
    end, size, failures = file.num_bytes or 0, CHUNK_BYTES, 0
    while part.num_bytes < end:
        _go_on(stop)
        try:
            data = store.read(file, part.num_bytes, min(part.num_bytes + size, end))
        except Exception as error:  # each file system raises its own
            if not may_pass(error) or failures == len(WAITS_S):
                raise explained(error, file.key) from None
            _go_on(stop, after_s=WAITS_S[failures])
            size, failures = max(size // 2, min(_LEAST_BYTES, size)), failures + 1
            continue
        if data is None:
            return False
        if not data:
            break  # it has become shorter: the size says so
        part.write(data)
        size, failures = min(2 * size, CHUNK_BYTES), 0
    return True


def _in_one_go(store: Store, file: RemoteFile, part: PartialFile, stop: Event) -> None:
    """Fetch a file from its beginning, for servers that know no ranges: a broken connection costs all of it."""
    for failures in range(len(WAITS_S) + 1):
        part.restart()
        with closing(_stream(store, file)) as stream:
            while True:
                _go_on(stop)
                try:
                    data = next(stream, b"")
                except Exception as error:
                    if not may_pass(error) or failures == len(WAITS_S):
                        raise explained(error, file.key) from None
                    break
                if not data:
                    return
                part.write(data)
        _go_on(stop, after_s=WAITS_S[failures])


def _stream(store: Store, file: RemoteFile) -> Generator[bytes, None, None]:
    with store.stream(file) as opened:
        while data := opened.read(CHUNK_BYTES):
            yield data


def _go_on(stop: Event, after_s: float = 0.0) -> None:
    if stop.wait(after_s):
        raise CancelledError
