"""Asks DeepSpeed, in a process of its own, which part of each tensor each rank keeps, and in which place.

DeepSpeed keeps its state in its modules, so the process that asked could not be an engine any more.
`multiprocessing` would run the caller's script again in the new process; this does not.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.resharding.fused import FusedRules
from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.errors import EngineError, RaydsinferError

# The gang that this process may be a rank of is none of the other's business, nor are the GPUs.
_NOT_INHERITED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_LAST_LINES = 5


def slice_rules_in_process(
    directory: Path, world_size: int, *, trust_remote_code: bool = False
) -> dict[str, tuple[Slice, ...]]:
    """What `slice_rules` says, without DeepSpeed in this process.

    Args:
        directory: The checkpoint.
        world_size: Number of ranks.
        trust_remote_code: Whether Python code in the directory may run.

    Returns:
        Tensor name → slices by world rank.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        UnsupportedError: The model cannot be cut for so many ranks.
        EngineError: DeepSpeed failed.
    """
    rules: dict[str, tuple[Slice, ...]] = _asked("slices", directory, world_size, trust_remote_code)
    return rules


def fused_rules_in_process(directory: Path, world_size: int, *, trust_remote_code: bool = False) -> FusedRules:
    """What `fused_rules` says, without DeepSpeed in this process; see `slice_rules_in_process`."""
    rules: FusedRules = _asked("fused", directory, world_size, trust_remote_code)
    return rules


def _asked(what: str, directory: Path, world_size: int, trust_remote_code: bool) -> Any:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment |= {
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    trust = str(int(trust_remote_code))
    ended = subprocess.run(
        [sys.executable, "-m", __name__, what, os.fspath(directory.resolve()), str(world_size), trust],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if ended.returncode != 0:
        said = " | ".join(ended.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
        raise EngineError(
            doing=f"asking DeepSpeed how to cut {directory} for {world_size} ranks",
            reason=f"its process ended with code {ended.returncode}: {said}",
        )
    answer = pickle.loads(ended.stdout)  # noqa: S301 (written by `_main` below)
    if isinstance(answer, RaydsinferError):
        raise answer
    return answer


def _main(arguments: Sequence[str]) -> None:
    """The other process: writes the rules, or an error of ours, to where its standard output was."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # DeepSpeed logs to standard output
    from raydsinfer.engines.deepspeed_rules import fused_rules, slice_rules

    what, directory, world_size, trust = arguments
    ask = {"slices": slice_rules, "fused": fused_rules}[what]
    try:
        said: object = ask(Path(directory), int(world_size), trust_remote_code=trust == "1")
    except RaydsinferError as error:
        said = error
    with answer:
        pickle.dump(said, answer)


if __name__ == "__main__":
    _main(sys.argv[1:])
