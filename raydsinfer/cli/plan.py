"""`raydsinfer plan`: what a model takes on this cluster, before weights move."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.cli.flags import AcceleratorType, Address, CpuRanks, Debug, ModelName, PlacementStrategy
from raydsinfer.cli.options import with_flags
from raydsinfer.config import EngineConfig

EXIT_CODES = (
    "Exit codes: 0 nothing is known against a start now; 1 something is; 2 wrong usage, settings or model; "
    "130 interrupted."
)
_HIDDEN = frozenset({"replace_method", "echo_fault", "echo_delay_s"})


@with_flags({"engine": EngineConfig}, hidden=_HIDDEN)
def plan(
    model: ModelName,
    num_gpus_per_worker_group: Annotated[
        int | None,
        typer.Option(
            "--num-gpus-per-worker-group",
            "--tp",
            help="GPUs that share the model in each gang. \\[default: the fewest that it fits on]",
            show_default=False,
        ),
    ] = None,
    num_cpu_ranks_per_worker_group: CpuRanks = None,
    num_worker_groups: Annotated[
        int | None,
        typer.Option(
            help="Gangs side by side. \\[default: as many as GPUs are free for; on CPUs 1]",
            show_default=False,
        ),
    ] = None,
    placement_strategy: PlacementStrategy = "PACK",
    accelerator_type: AcceleratorType = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Reckon with this GPU, like T4 or H100, whatever drivers tell."),
    ] = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(metavar="GIB", help="Reckon with so much memory on a GPU.")
    ] = None,
    address: Address = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Time limit of each probe on a node.")] = 120,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of the tables.")] = False,
    debug: Debug = False,
    *,
    engine: dict[str, Any],
) -> None:
    """Say what a model takes on this cluster, before weights move.

    Engines and dtypes that are possible, and why not the others; memory of a GPU and the largest batch; host
    memory and disk of each node; where gangs would go, and who is in their way; the command to run next.

    Of a model that is elsewhere only the small files are fetched. No GPU is touched, nothing is reserved.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.plan_json import plan_json
        from raydsinfer.cli.plan_report import print_plan
        from raydsinfer.cli.planning import planned
        from raydsinfer.cli.shape import gang_shape
        from raydsinfer.planning.gpus import assumed_gpu
        from raydsinfer.planning.wanted import Wanted

        shape = gang_shape(
            num_worker_groups=1 if num_worker_groups is None else num_worker_groups,
            max_worker_groups=None,
            num_gpus=num_gpus_per_worker_group,
            num_cpu_ranks=num_cpu_ranks_per_worker_group,
            placement_strategy=placement_strategy,
            accelerator_type=accelerator_type,
        )
        asked = num_gpus_per_worker_group is not None or num_cpu_ranks_per_worker_group is not None
        wanted = Wanted(
            model=model,
            config=_settings(model, engine),
            num_ranks=shape.num_ranks if asked else None,
            use_gpu=shape.use_gpu,
            num_gangs=num_worker_groups,
            placement_strategy=shape.placement_strategy,
            accelerator_type=shape.accelerator_type,
            assumed=assumed_gpu(gpu, gpu_memory_gib),
        )
        with console.status("reading the model") as status:
            found = planned(
                wanted,
                address=address,
                num_cpus=shape.num_cpus,
                timeout_s=timeout,
                debug=debug,
                on_stage=lambda stage: status.update(stage),
            )
        if json:
            typer.echo(json_module.dumps(plan_json(found, address=address), indent=2))
        else:
            print_plan(found, Console(), address=address)
    raise typer.Exit(ExitCode.FAILURE if found.problems else ExitCode.OK)


def _settings(model: str, said: Mapping[str, Any]) -> EngineConfig:
    from raydsinfer.cli.job import checkpoint_of
    from raydsinfer.errors import InvalidSettingError

    EngineConfig(**said)  # what is wrong with it is wrong whatever was saved with the model
    config = checkpoint_of(model, said).spec.config
    if config.engine == "echo":
        raise InvalidSettingError(
            name="engine",
            value="echo",
            expected="'auto' or 'deepspeed': the echo engine has no model",
            hint="`raydsinfer generate --engine echo --dry-run` shows where its gangs would go.",
        )
    return config
