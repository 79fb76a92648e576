"""All files of a model from their source to this node, several at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

from raydsinfer.checkpoints.disk import is_full
from raydsinfer.checkpoints.sizes import OnProgress, size_in_words
from raydsinfer.checkpoints.sources.remote import RemoteFile, Store
from raydsinfer.checkpoints.sources.transfer import transfer
from raydsinfer.checkpoints.sources.web_directory import NUM_THREADS
from raydsinfer.errors import CheckpointError, summary_of


def download(store: Store, files: Sequence[RemoteFile], directory: Path, on_progress: OnProgress | None = None) -> int:
    """Bring files into a directory. What an earlier attempt left there is kept.

    Args:
        store: Where they are.
        files: Which.
        directory: Where to.
        on_progress: Called from several threads, one at a time.

    Returns:
        Bytes that had to be fetched.

    Raises:
        CheckpointError: The store failed, or the disk is full or soon would be.
        CorruptCheckpointError: A file is not what was announced.
    """
    todo = sorted((f for f in files if not (directory / f.name).exists()), key=lambda f: -(f.num_bytes or 0))
    progress = Progress(sum(file.num_bytes or 0 for file in files), on_progress)
    progress.add(sum((directory / file.name).stat().st_size for file in set(files) - set(todo)))
    here = sum(_bytes_there(directory / f"{file.name}.part") for file in todo)
    require_space(sum(file.num_bytes or 0 for file in todo) - here, directory)
    stop = Event()
    with writing_to(directory, lambda: progress.total - progress.num_bytes), ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(transfer, store, file, directory, progress.add, stop) for file in todo]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also when this thread is interrupted
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        _raise_first(futures)
        return sum(future.result() for future in futures)


def _raise_first(futures: Sequence[Future[int]]) -> None:
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
        raise error


class Progress:
    """Counts bytes over several threads.

    Args:
        total: Bytes in all, as far as they are known.
        on_progress: Told of each change.
    """

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self.total, self.num_bytes = total, 0
        self._on_progress, self._lock = on_progress, Lock()

    def add(self, num_bytes: int) -> None:
        """Count some more."""
        with self._lock:
            self.num_bytes += num_bytes
            self.total = max(self.total, self.num_bytes)
            if self._on_progress is not None:
                self._on_progress(self.num_bytes, self.total)


def require_space(num_bytes: int, directory: Path) -> None:
    """Check that a disk takes some more bytes.

    Raises:
        CheckpointError: It does not.
    """
    free = shutil.disk_usage(directory).free
    if num_bytes > free:
        raise CheckpointError(
            path=str(directory),
            reason=f"{size_in_words(num_bytes)} more are needed there, and {size_in_words(free)} are free",
            hint="Make room, or fetch to another disk.",
        )


@contextmanager
def writing_to(directory: Path, num_bytes_left: Callable[[], int]) -> Iterator[None]:
    """Turn what the disk says into errors that name it.

    Args:
        directory: Where is written to.
        num_bytes_left: How many bytes are still to come.

    Raises:
        CheckpointError: The disk is full, or cannot be written to.
    """
    try:
        yield
    except OSError as error:
        reason, hint = f"cannot be written to ({summary_of(error)})", "Give a directory that the nodes may write to."
        if is_full(error):
            reason = f"the disk is full: {size_in_words(num_bytes_left())} more are needed there"
            hint = "Make room and fetch again: it goes on where it stopped."
        raise CheckpointError(path=str(directory), reason=reason, hint=hint) from error


def _bytes_there(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
