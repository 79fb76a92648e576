"""Misbehaving on demand: what an `EchoFault` does to an echo engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Literal

from raydsinfer.config import EchoFault
from raydsinfer.errors import EngineError

_FOR_EVER_S = 86_400.0


def strike(
    fault: EchoFault | None,
    world_rank: int,
    when: Literal["load", "generate"],
    prompts: Sequence[bytes] = (),
    num_rows: int = 0,
) -> None:
    """Do what the fault says, if it is meant for this rank and this moment.

    Args:
        fault: What to do; None: nothing.
        world_rank: The rank that asks.
        when: What it is doing.
        prompts: Prompts that could set it off.
        num_rows: Rows that are worked on at once.

    Raises:
        EngineError: The fault says ``raise`` or ``oom``.
    """
    if fault is None or fault.when != when or fault.rank not in (None, world_rank):
        return
    if when == "generate" and not any(fault.prompt_contains.encode() in prompt for prompt in prompts):
        return
    if fault.action == "oom" and when == "generate" and num_rows <= fault.oom_rows:
        return
    if fault.once and not _made(fault.once if fault.rank is not None else f"{fault.once}.{world_rank}"):
        return
    _misbehave(fault, world_rank, when, num_rows)


def _made(path: str) -> bool:
    """Make a file; False if it is there."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def _misbehave(fault: EchoFault, world_rank: int, when: str, num_rows: int) -> None:
    if fault.action == "slow":
        time.sleep(fault.slow_s)
        return
    if fault.action == "hang":
        time.sleep(_FOR_EVER_S)
    elif fault.action == "exit":
        os._exit(1)
    elif fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "oom":
        reason = f"told to have memory for {fault.oom_rows} rows and not for {num_rows}"
        hint = "Fewer rows at once would do."
        raise EngineError(doing=f"echo engine, {when}", reason=reason, hint=hint, out_of_memory=True)
    raise EngineError(doing=f"echo engine, {when}", reason=f"told to fail on rank {world_rank}")
