"""`raydsinfer verify`: whether a model's text is right on this cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from raydsinfer.cli.failures import reported_failures
from raydsinfer.cli.flags import AcceleratorType, Address, CpuRanks, Debug, GpuRanks, ModelName, PlacementStrategy
from raydsinfer.cli.options import with_flags
from raydsinfer.config import EngineConfig, GangConfig
from raydsinfer.errors import InvalidSettingError, VerificationError

if TYPE_CHECKING:
    from raydsinfer.engines.verification.report import VerificationReport

EXIT_CODES = (
    "Exit codes: 0 right, if need be in another way than the one that was asked for; 1 not right, or failure; "
    "2 wrong usage, settings or golden file; 130 interrupted; 143 terminated."
)
_HIDDEN = frozenset({"verify", "seed", "replace_method", "echo_fault", "echo_delay_s"})


@with_flags({"engine": EngineConfig, "gang": GangConfig}, hidden=_HIDDEN)
def verify(
    model: ModelName,
    num_gpus_per_worker_group: GpuRanks = None,
    num_cpu_ranks_per_worker_group: CpuRanks = None,
    placement_strategy: PlacementStrategy = "PACK",
    accelerator_type: AcceleratorType = None,
    address: Address = None,
    write_golden: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Write what transformers says into a file, for --golden of later runs."),
    ] = None,
    debug: Debug = False,
    *,
    engine: dict[str, Any],
    gang: dict[str, Any],
) -> None:
    """Compare what a gang generates with plain transformers, whatever is remembered of earlier runs.

    Where the way to run the model that was asked for is not right, the next slower one is tried, unless --strict is
    said.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.shape import gang_shape
        from raydsinfer.cli.verifying import verified

        shape = gang_shape(
            num_worker_groups=1,
            max_worker_groups=None,
            num_gpus=num_gpus_per_worker_group,
            num_cpu_ranks=num_cpu_ranks_per_worker_group,
            placement_strategy=placement_strategy,
            accelerator_type=accelerator_type,
        )
        if engine.get("golden") is not None:
            if write_golden is not None:
                raise InvalidSettingError(
                    name="--write-golden", value=write_golden, expected="to stand without --golden"
                )
            engine["golden"] = str(Path(engine["golden"]).expanduser().absolute())
        target = None if write_golden is None else Path(write_golden).expanduser()
        try:
            report, failed = verified(
                model,
                engine=engine,
                gang=gang,
                shape=shape,
                address=address,
                write_golden=target,
                say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
                debug=debug,
            )
        except VerificationError as error:
            if error.canaries:
                print_canaries(Console(), error.attempts[-1][0], error.canaries)
            raise
        print_report(Console(), report, failed)


def print_report(console: Console, report: VerificationReport, failed: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    """Print what was found.

    Args:
        console: Where to.
        report: Of the way that is right.
        failed: Ways that are not, and what differed there.
    """
    from raydsinfer.groups.descent import IMPOSSIBLE

    for way, differences in failed:
        verdict = "could not be had" if differences[0].startswith(IMPOSSIBLE) else "is not right"
        console.print(f"{way} {verdict}:", style="red", markup=False, highlight=False)
        for line in differences:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    print_canaries(console, report.rung, report.canaries)
    source = "plain transformers" if report.source == "transformers" else "the golden file"
    line = f"{report.rung} is right: equal to {source} within rounding ({report.seconds:.1f} s)"
    console.print(line, style="green", markup=False, highlight=False, soft_wrap=True)


def print_canaries(console: Console, way: str, canaries: tuple[Any, ...]) -> None:
    """Print a row for each canary.

    Args:
        console: Where to.
        way: How the model ran.
        canaries: `CanaryResult` of each.
    """
    table = Table(title=way, title_justify="left", pad_edge=False)
    for name in ("canary", "prompt", "new", "difference", "rounding", "ties", ""):
        table.add_column(name, justify="left" if name in ("canary", "") else "right", overflow="fold")
    for canary in canaries:
        compared = bool(canary.allowed_gap)
        table.add_row(
            canary.name,
            f"{canary.num_prompt_tokens:,}",
            str(canary.num_new_tokens),
            f"{canary.largest_gap:.2g}" if compared else "",
            f"{canary.allowed_gap:.2g}" if compared else "",
            str(canary.num_ties) if compared else "",
            "wrong" if canary.problem else "right",
        )
    console.print(table, markup=False, highlight=False)
    for canary in canaries:
        if canary.problem:
            console.print(f"{canary.name}: {canary.problem}", markup=False, highlight=False, soft_wrap=True)
