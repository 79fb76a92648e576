"""Works off a plan: several stripes at a time, finished ones kept, an error or Ctrl-C ends them all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Generic, Protocol

from raydsinfer.checkpoints.resharding.journal import Journal
from raydsinfer.checkpoints.resharding.plan import AnyFile, Plan, Stripe
from raydsinfer.checkpoints.resharding.writer import Writer
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.weights.ranks_index import FileSum

MOST_FILES_AT_ONCE = 4
"""Stripes in work at a time, on a machine with as many cores."""

_NUM_THREADS = min(MOST_FILES_AT_ONCE, os.cpu_count() or 1)  # hashing and copying use one core each
_SCRATCH = "scratch"


class MakeWriter(Protocol):
    """Makes a writer; see `Writer` for its arguments."""

    def __call__(self, *, scratch: Path, on_bytes: Callable[[int], None], check: Callable[[], None]) -> Writer:
        """The writer."""


def write_plan(
    plan: Plan[AnyFile],
    make_writer: MakeWriter,
    directory: Path,
    journal: Journal,
    on_progress: OnProgress | None,
) -> tuple[dict[str, FileSum], int]:
    """Write the files of a plan that are not there yet, and read each back.

    Args:
        plan: What to write.
        make_writer: Makes what writes them.
        directory: Where the files go.
        journal: Of the directory.
        on_progress: See `OnProgress`; called from several threads, but never at once.

    Returns:
        File name → size and checksum, in the order of the plan; and how many files were there already.
    """
    crew = _Crew(plan, make_writer, directory, journal, on_progress)
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="reshard") as pool:
        futures = [pool.submit(crew.do, stripe) for stripe in plan.stripes]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            crew.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return {file.name: crew.sums[file.name] for file in plan.files}, crew.num_resumed


def most_scratch_bytes(each: Iterable[int], num_at_once: int = _NUM_THREADS) -> int:
    """The most space that files take at one time beside their own.

    Args:
        each: What each takes while it is written.
        num_at_once: How many are in work at a time.
    """
    return sum(sorted(each, reverse=True)[:num_at_once])


class _Crew(Generic[AnyFile]):
    """What the threads share."""

    def __init__(
        self,
        plan: Plan[AnyFile],
        make_writer: MakeWriter,
        directory: Path,
        journal: Journal,
        on_progress: OnProgress | None,
    ) -> None:
        self._journal, self._on_progress = journal, on_progress
        self._writer = make_writer(scratch=directory / _SCRATCH, on_bytes=self._advance, check=self._check)
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._done, self._total = 0, sum(entry.num_bytes for file in plan.files for entry in file.entries)
        self.sums: dict[str, FileSum] = {}
        self.num_resumed = 0

    def do(self, stripe: Stripe[AnyFile]) -> None:
        """Write a stripe, unless it is there."""
        found = {file.name: self._journal.trusted(file.name, file.exact_bytes, self._check) for file in stripe.files}
        sums = {name: file for name, file in found.items() if file is not None}
        if len(sums) == len(found):
            self._advance(sum(entry.num_bytes for file in stripe.files for entry in file.entries))
            with self._lock:
                self.num_resumed += len(sums)
        else:
            sums = self._writer.write(stripe)
            self._journal.add(sums)
        with self._lock:
            self.sums.update(sums)

    def stop(self) -> None:
        """End every thread at its next block."""
        self._stopped.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise CancelledError  # another thread failed; this one ends too

    def _advance(self, num_bytes: int) -> None:
        self._check()
        with self._lock:
            self._done += num_bytes
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)
