"""The flags of the commands that work on every node: `fetch` and `nodes`."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.console import Console

from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.cli.flags import Address, Debug

GpuOnly = Annotated[bool, typer.Option("--gpu-only", help="Only nodes with GPUs.")]
Label = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only nodes with this Ray label; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of the table.")]

EXIT_CODES = "Exit codes: 0 all is well; 1 it failed on a node; 2 wrong usage or settings; 130 interrupted."
_KEPT = "interrupted; no process was left behind. Run it again to go on: what has arrived may be kept"

nodes_app = typer.Typer(no_args_is_help=True, help="The nodes of the cluster: list them, run a command on each.")


@nodes_app.command("list", epilog=EXIT_CODES)
def list_nodes(
    address: Address = None, gpu_only: GpuOnly = False, label: Label = None, json: Json = False, debug: Debug = False
) -> None:
    """Living nodes: id, address, CPUs, GPUs, labels."""
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.nodes import Selection, living, node_json, nodes_table, parsed_labels, print_table

        selection = Selection(address=address, gpu_only=gpu_only, labels=parsed_labels(label or []))
        nodes = living(selection, debug=debug)
        if json:
            typer.echo(json_module.dumps([node_json(node) for node in nodes], indent=2))
        else:
            print_table(nodes_table(nodes), Console())


@nodes_app.command("run", epilog=EXIT_CODES)
def run(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND",
            help="After --: command and arguments, word for word. No shell reads them; for one: -- bash -c '...'",
            show_default=False,
        ),
    ],
    address: Address = None,
    gpu_only: GpuOnly = False,
    label: Label = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End it on nodes where it takes longer.", min=0)
    ] = None,
    debug: Debug = False,
) -> None:
    """Run a command once on every node, side by side, and show its lines under the node's name.

    It starts in the home directory, with the environment of Ray's processes and no input. Ctrl-C here, or the
    end of this process, ends it on all nodes, with all processes that it started in its session.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.nodes import Selection, parsed_labels, run_command

        selection = Selection(address=address, gpu_only=gpu_only, labels=parsed_labels(label or []))
        well = run_command(command, selection, timeout_s=timeout, console=console, debug=debug)
    raise typer.Exit(ExitCode.OK if well else ExitCode.FAILURE)


def fetch(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model: a URL, a name on the Hugging Face hub, or a directory.")
    ],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]", help="Directory on each node. \\[default: the node's cache]", show_default=False
        ),
    ] = None,
    address: Address = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    hf_home: Annotated[str | None, typer.Option(help="Directory of the cache on each node.")] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look at the source for changes of a copy that is there.")
    ] = False,
    gpu_only: GpuOnly = False,
    label: Label = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Bring a model to every node, once each, side by side.

    A node that fails is named with its reason; the others finish. Nodes use their own credentials; where one
    has no HF_TOKEN, it gets the one of this command's environment.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug, interrupted=_KEPT):
        from raydsinfer.cli.fetch import fetch_everywhere, make_fetch
        from raydsinfer.cli.nodes import Selection, parsed_labels, print_failures, print_table

        selection = Selection(address=address, gpu_only=gpu_only, labels=parsed_labels(label or []))
        wanted = make_fetch(model, path, revision=revision, hf_home=hf_home, refresh=refresh)
        report = fetch_everywhere(wanted, selection, console=console, debug=debug)
        if json:
            typer.echo(json_module.dumps(report.json(), indent=2))
        else:
            print_table(report.table(), Console())
        print_failures(report.names, report.results, console)
    raise typer.Exit(report.exit_code)
