"""Starts one gang and asks the gate."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydsinfer.checkpoint import DeepSpeedCheckpoint
from raydsinfer.cli.cluster import cluster
from raydsinfer.cli.generate import check_files, refuse_impossible
from raydsinfer.cli.shape import GangShape
from raydsinfer.config import EngineConfig, GangConfig
from raydsinfer.engines.verification.golden import write_golden as write
from raydsinfer.errors import OutputError, UnsupportedError
from raydsinfer.groups import placement, supervisor

if TYPE_CHECKING:
    from raydsinfer.engines.verification.report import VerificationReport

FailedWays = tuple[tuple[str, tuple[str, ...]], ...]


def verified(
    model: str,
    *,
    engine: Mapping[str, Any],
    gang: Mapping[str, Any],
    shape: GangShape,
    address: str | None,
    write_golden: Path | None,
    say: Callable[[str], None],
    debug: bool,
) -> tuple[VerificationReport, FailedWays]:
    """Compare a model on a gang with plain transformers.

    Args:
        model: Directory, URL or hub name.
        engine: Of `EngineConfig`, what was said.
        gang: Of `GangConfig`, what was said.
        shape: Of the gang.
        address: Of the Ray cluster.
        write_golden: Where to write the reference; None for nowhere.
        say: Gets a line of words at each step.
        debug: Whether the workers' logs are shown.

    Returns:
        What was found with the way that is right, and ways that are not, with what differed.

    Raises:
        VerificationError: No way is right, or the first is not and the settings are strict.
        RaydsinferError: It could not be found out.
    """
    said = {**engine, "verify": "always"}
    EngineConfig(**said)  # what is wrong with it is wrong whatever was saved with the model
    spec = DeepSpeedCheckpoint.from_pretrained(model).replaced(**said).spec
    if spec.config.engine == "echo":
        raise UnsupportedError(what="verify with engine='echo'", why="it has no model", instead="Name a model.")
    if spec.config.dtype == "int8":
        why, instead = "int8 weights are off by more than can be told from a fault", "Verify with float16 or bfloat16."
        raise UnsupportedError(what="verify with dtype='int8'", why=why, instead=instead)
    check_files(spec, shape.num_ranks)
    if write_golden is not None:
        _require_place(write_golden)
    deadlines = GangConfig(**gang)
    with (
        redirect_stdout(sys.stderr),  # Ray prints what its nodes warn of
        cluster(address, num_cpus=shape.num_cpus, debug=debug) as started_here,
    ):
        if started_here:
            refuse_impossible(shape)
        for module in (placement, supervisor):  # all that they warn of they also tell
            logging.getLogger(module.__name__).setLevel(logging.ERROR)
        gangs = supervisor.GangSupervisor(spec, shape.scaling_config(), gang_config=deadlines, on_progress=say)
        with gangs:
            report = gangs.start().load_report.verification
            failed = gangs.failed_ways
    assert report is not None  # noqa: S101 - "always" raises where there is nothing to compare with
    if write_golden is not None:
        write(write_golden, report.golden)
        say(f"golden file: {write_golden}")
    return report, failed


def _require_place(path: Path) -> None:
    """Fail before a gang is started where its result could not be written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        reason = "it is a directory" if path.is_dir() else "its directory does not exist"
        raise OutputError(path=str(path), reason=reason, hint="Give a file in a directory that exists.")
