"""Tells how far the ranks of a gang have come while they load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from raydsinfer.engines.base import LoadProgress

_PHASES = ("fetch", "reshard", "weights")
_MAX_RANKS_A_LINE = 4
_POLL_S = 1.0


class LoadWatch:
    """Asks the ranks once a second, in a thread, and tells a line when something moved. A context manager.

    Args:
        ask: World rank → progress, of the ranks that answered.
        tell: Gets a line of words.
        poll_s: Seconds between two questions.
    """

    def __init__(
        self, ask: Callable[[], Mapping[int, LoadProgress]], tell: Callable[[str], None], poll_s: float = _POLL_S
    ) -> None:
        self._ask, self._tell, self._poll_s = ask, tell, poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load-watch", daemon=True)

    def __enter__(self) -> LoadWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        last = ""
        while not self._stop.wait(self._poll_s):
            line = progress_line(self._ask())
            if line and line != last and not self._stop.is_set():
                self._tell(line)
                last = line


def progress_line(ranks: Mapping[int, LoadProgress]) -> str:
    """One line about what is moving; empty if nothing is.

    Of more than four ranks it names the one that is furthest behind.
    """
    moving = {rank: p for rank, p in ranks.items() if p.bytes_done}
    if not moving:
        return ""
    # While one rank of a node fetches or reshards, the others wait for it without a byte of their own.
    phase = min((p.phase for p in moving.values()), key=_PHASES.index)
    moving = {rank: p for rank, p in moving.items() if p.phase == phase}
    if len(moving) <= _MAX_RANKS_A_LINE:
        return f"{phase}: " + "; ".join(_one(rank, p) for rank, p in sorted(moving.items()))
    behind = min(moving, key=lambda rank: _share(moving[rank]))
    done, total = (sum(getattr(p, name) for p in moving.values()) for name in ("bytes_done", "bytes_total"))
    return f"{phase}: {_size(done)} of {_size(total)} on {len(moving)} ranks; last {_one(behind, moving[behind])}"


def _one(rank: int, progress: LoadProgress) -> str:
    of = f" of {_size(progress.bytes_total)}" if progress.bytes_total else ""
    speed = f", {progress.bytes_done / progress.seconds / 1e9:.2f} GB/s" if progress.seconds else ""
    return f"rank {rank} {_size(progress.bytes_done)}{of}{speed}"


def _share(progress: LoadProgress) -> float:
    return progress.bytes_done / progress.bytes_total if progress.bytes_total else 0.0


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 10**8 else f"{num_bytes / 1e6:.2f} MB"
