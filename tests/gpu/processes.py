"""What each process of a test's Ray does first."""

from __future__ import annotations

import os

from tests.gpu import illegal_access, sharing

SHARED = "RAYDSINFER_TEST_SHARED_GPU"
"""Environment variable that is there when ranks share a GPU."""


def begin() -> None:
    illegal_access.watch_in_background()
    if SHARED in os.environ:
        sharing.name_own_host()
