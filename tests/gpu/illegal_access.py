"""Takes a GPU process down from within, when a file appears."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

TRIGGER = "RAYDSINFER_TEST_TRIGGER"
"""Environment variable that names the file."""


def watch_in_background() -> None:
    """In each process that Ray starts: wait for the file. The first process with a GPU that sees it takes it."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    trigger = Path(os.environ[TRIGGER])
    while True:
        time.sleep(0.05)
        torch = sys.modules.get("torch")
        if trigger.exists() and torch is not None and torch.cuda.is_initialized():
            trigger.unlink()
            _read_what_is_nobodys(torch)
            return


def _read_what_is_nobodys(torch: object) -> None:
    class Beyond:
        """A tensor of one number that says that it has 2**36 of them."""

        def __init__(self) -> None:
            self.memory = torch.zeros(1, device="cuda")  # type: ignore[attr-defined]
            self.__cuda_array_interface__ = {
                "shape": (2**36,),
                "typestr": "<f4",
                "data": (self.memory.data_ptr(), False),
                "version": 2,
            }

    torch.as_tensor(Beyond(), device="cuda")[2**35 :: 2**30].sum()  # type: ignore[attr-defined]
