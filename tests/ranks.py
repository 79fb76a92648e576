"""The ranks of a process group as plain processes, for tests of engines without Ray.

What a rank imports costs it seconds: here each is forked from a process that has imported all of it and done nothing
else. A test for which the environment has to be there before the imports uses
`raydsinfer.bench.ranks` itself, which starts new interpreters.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.engines.base import RankContext

_IMPORTS = "tests.ranks_imports"


def run_ranks(
    world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float = 150, device: str = "cpu"
) -> Any:
    """Run `target(context, *args)` on every rank of a process group; returns rank 0's answer."""
    return answers_of_ranks(world_size, target, *args, timeout_s=timeout_s, device=device)[0]


def answers_of_ranks(
    world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float = 150, device: str = "cpu"
) -> list[Any]:
    """The same; returns the answers by rank."""
    if device != "cpu":  # CUDA does not survive a fork
        return _on_gpus(world_size, target, *args, timeout_s=timeout_s)
    return run_on_ranks(world_size, _forked, target, *args, timeout_s=timeout_s, processes=forks())


def _on_gpus(world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float) -> list[Any]:
    import torch

    from tests.gpu.sharing import run_on_one_gpu

    if torch.cuda.device_count() < world_size:
        print(f"{world_size} ranks share one GPU")
        return run_on_one_gpu(world_size, target, *args, timeout_s=timeout_s)
    return run_on_ranks(world_size, target, *args, timeout_s=timeout_s, device="cuda")


def forks() -> ForkServerContext:
    """Starts processes that have imported already what a rank needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_IMPORTS])
    return context


def _forked(context: RankContext, target: Callable[..., Any], *args: Any) -> Any:
    # The server passes over a module that it cannot import.
    assert _IMPORTS in sys.modules, f"{_IMPORTS} was not imported: start pytest in the root of the repository"
    return target(context, *args)
