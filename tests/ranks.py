"""The ranks of a process group as plain processes, for tests of engines without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydsinfer.bench.ranks import run_on_ranks


def run_ranks(
    world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float = 150, device: str = "cpu"
) -> Any:
    """Run `target(context, *args)` on every rank of a process group; returns rank 0's answer."""
    return run_on_ranks(world_size, target, *args, timeout_s=timeout_s, device=device)[0]
