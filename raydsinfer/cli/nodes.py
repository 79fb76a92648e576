"""`raydsinfer nodes`: which nodes there are, and one command on each of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, TextIO

import ray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydsinfer.cli.board import Board, Teller
from raydsinfer.cli.cluster import cluster, this_node
from raydsinfer.cli.warded import Stream, WardedCommand
from raydsinfer.cli.warden import KILL_S, TERMINATE_S
from raydsinfer.errors import InvalidSettingError, RaydsinferError
from raydsinfer.groups.nodes import Node, alive_nodes, choose_nodes, node_names
from raydsinfer.nodes import NodeResult, run_on_every_node

_WIDE = 10_000  # characters


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which nodes of which cluster.

    Args:
        address: Ray address.
        gpu_only: Only nodes with GPUs.
        labels: Only nodes with these Ray labels.
    """

    address: str | None = None
    gpu_only: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def names(self, *, debug: bool) -> Iterator[dict[str, str]]:
        """Connect; gives the id and the short name of each node that is meant.

        Raises:
            InvalidSettingError: There is no cluster at that address, or no such node in it.
        """
        with redirect_stdout(sys.stderr), cluster(self.address, num_cpus=1, debug=debug):  # Ray prints there
            nodes = alive_nodes()
            names = node_names(nodes)  # all of them: a node is called the same, whichever are meant
            chosen = choose_nodes(nodes, gpu_only=self.gpu_only, labels=self.labels)
            yield {node.node_id: names[node.node_id] for node in chosen}


def parsed_labels(words: Sequence[str]) -> dict[str, str]:
    """``["disk=nvme"]`` as a dict.

    Raises:
        InvalidSettingError: One is no ``key=value``.
    """
    wrong = [word for word in words if not word.partition("=")[0] or "=" not in word]
    if wrong:
        raise InvalidSettingError(name="--label", value=wrong[0], expected="key=value")
    return dict(word.split("=", 1) for word in words)


def living(selection: Selection, *, debug: bool) -> list[Node]:
    """The nodes that are meant."""
    with selection.names(debug=debug) as names:
        return [node for node in alive_nodes() if node.node_id in names]


def nodes_table(nodes: Sequence[Node]) -> Table:
    """A row a node."""
    table = Table(box=None, pad_edge=False)
    table.add_column("id", overflow="fold")
    table.add_column("ip", no_wrap=True)
    table.add_column("CPUs", justify="right")
    table.add_column("GPUs", justify="right")
    table.add_column("labels", overflow="fold")
    for node in nodes:
        labels = [f"{key}={value}" for key, value in sorted(node.labels.items()) if value != node.node_id]
        table.add_row(node.node_id, node.ip, f"{node.num_cpus:g}", f"{node.num_gpus:g}", escape(", ".join(labels)))
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table; where no person looks, a row is a line, however long."""
    (console if console.is_terminal else Console(file=console.file, width=_WIDE)).print(table)


def node_json(node: Node) -> dict[str, Any]:
    """For machines."""
    return {
        "node_id": node.node_id,
        "ip": node.ip,
        "num_cpus": node.num_cpus,
        "num_gpus": node.num_gpus,
        "labels": dict(node.labels),
    }


@dataclass(frozen=True)
class _Said:
    node_id: str
    stream: Stream
    lines: list[str]


def command_here(command: Sequence[str], teller: Teller) -> int:
    """Run a command on this node; its lines go to the board. Runs on the nodes.

    Returns:
        The exit code; 127 and 126 as a shell counts, 128 + signal.
    """
    node_id = ray.get_runtime_context().get_node_id()
    with WardedCommand(command) as running:
        for stream, lines in running.output():
            teller.in_turn(_Said(node_id, stream, lines))
        if running.problem:
            teller.in_turn(_Said(node_id, "stderr", [running.problem]))
    return 1 if running.exit_code is None else running.exit_code


def run_command(
    command: Sequence[str], selection: Selection, *, timeout_s: float | None, console: Console, debug: bool
) -> bool:
    """Run a command on every node that is meant, showing each one's lines under its name.

    Args:
        command: The command and its arguments.
        selection: Which nodes.
        timeout_s: Seconds that it may take; None for no limit.
        console: For the table at the end; what the commands say goes to stdout and stderr.
        debug: Whether to show logs.

    Returns:
        Whether it ended with 0 everywhere.

    Raises:
        ConfigurationError: There are no such nodes.
    """
    files: dict[Stream, TextIO] = {"stdout": sys.stdout, "stderr": sys.stderr}
    with selection.names(debug=debug) as names:
        width = max(map(len, names.values()))

        def show(_: float, said: _Said) -> None:
            name = names.get(said.node_id, said.node_id[:8])
            _write(files[said.stream], "".join(f"{name:{width}} | {line}\n" for line in said.lines))

        with Board(show, this_node()) as board:
            results = run_on_every_node(
                command_here,
                (tuple(command), board.teller),
                gpu_only=selection.gpu_only,
                labels=selection.labels,
                timeout_s=timeout_s,
                stop_s=TERMINATE_S + KILL_S + 5,
            )
    print_table(_exit_codes(names, results), console)
    print_failures(names, results, console)
    return all(result.value == 0 for result in results.values())


def _write(file: TextIO, text: str) -> None:
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:  # the reader, as `head`, has enough; the commands go on
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def print_failures(names: Mapping[str, str], results: Mapping[str, NodeResult[Any]], console: Console) -> None:
    """Name each node that did not answer with a value, with its reason."""
    failed = [result for result in results.values() if result.error is not None]
    for result in failed:
        kind = "" if isinstance(result.error, RaydsinferError) else f"{type(result.error).__name__}: "
        text = f"error: {names.get(result.node_id, result.node_ip)}: {kind}{result.error}"
        console.print(text, markup=False, highlight=False, soft_wrap=True, style="red")
    if failed:
        text = f"{len(failed)} of {len(results)} nodes failed"
        console.print(text, markup=False, highlight=False, style="red")


def _exit_codes(names: Mapping[str, str], results: Mapping[str, NodeResult[int]]) -> Table:
    table = Table("node", box=None, pad_edge=False)
    table.add_column("exit code", justify="right")
    table.add_column("seconds", justify="right")
    for node_id, result in results.items():
        code = str(result.value) if result.ok else "none"
        style = None if result.value == 0 else "red"
        table.add_row(names.get(node_id, result.node_ip), code, f"{result.seconds:,.1f}", style=style)
    return table
