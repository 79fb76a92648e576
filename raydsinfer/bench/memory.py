"""How much host memory a process takes, page cache and mapped files apart."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

_POLL_S = 0.01  # a staging buffer lives for tenths of a second


class PeakMemory:
    """Watches this process's anonymous memory, in a thread. A context manager.

    Attributes:
        start_bytes: Before.
        peak_bytes: The most seen, pinned memory included.
    """

    def __init__(self) -> None:
        self.start_bytes = self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self.start_bytes = self.peak_bytes = anonymous_bytes() + pinned_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, anonymous_bytes() + pinned_bytes())


def anonymous_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def pinned_bytes() -> int:
    """Host memory that torch has pinned for a GPU; the kernel counts it as shared."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0
    return int(torch.cuda.host_memory_stats().get("allocated_bytes.current", 0))
