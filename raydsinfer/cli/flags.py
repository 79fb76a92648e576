"""Flags that several commands have: the model, the ranks of a gang, the cluster."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model: a directory, a URL, or a name on the Hugging Face hub.")
]
GpuRanks = Annotated[
    int | None,
    typer.Option(
        help="GPUs that share the model in each gang: the tensor parallel size. \\[default: 1]", show_default=False
    ),
]
CpuRanks = Annotated[
    int | None,
    typer.Option("--num-cpu-ranks-per-worker-group", "--cpu-ranks", help="CPU processes a gang instead of GPUs."),
]
PlacementStrategy = Annotated[
    str, typer.Option(help="Ray's placement of a gang: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD.")
]
AcceleratorType = Annotated[str | None, typer.Option(help="Ray's name of the GPU, for example H100.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster. 'local' starts one; by default RAY_ADDRESS, then one that runs here, then a new one."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")]
