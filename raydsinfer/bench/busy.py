"""The share of the time in which a GPU was busy, as its driver counts it."""

from __future__ import annotations

import threading
from types import TracebackType

_POLL_S = 0.2  # the driver's own counter is renewed every few tenths of a second


class BusyShare:
    """Asks the driver from a thread. A context manager.

    Needs the package ``nvidia-ml-py``; without it, and on CPU, nothing is known.

    Args:
        device: ``cpu`` or ``cuda:0``.

    Attributes:
        share: 0 to 1, the mean of what was seen in between; None if nothing was.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.share: float | None = None
        self._seen: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu-busy", daemon=True)

    def __enter__(self) -> BusyShare:
        if self._device != "cpu":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device == "cpu":
            return
        self._stop.set()
        self._thread.join()
        if self._seen:
            self.share = sum(self._seen) / len(self._seen) / 100

    def _watch(self) -> None:
        import torch

        index = torch.device(self._device).index or 0
        while not self._stop.wait(_POLL_S):
            try:
                self._seen.append(torch.cuda.utilization(index))
            except Exception:  # not installed, or a driver that does not say
                return
