"""What came of a fetch, node by node: a table for people, JSON for machines, an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from raydsinfer.checkpoints.sources.fetch import Fetched
from raydsinfer.cli.failures import ExitCode, exit_code
from raydsinfer.nodes import NodeResult


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """All results.

    Args:
        names: Node id → name.
        results: Node id → result.
    """

    names: Mapping[str, str]
    results: Mapping[str, NodeResult[Fetched]]

    @property
    def exit_code(self) -> ExitCode:
        """0 if every node has the model; the worst of what failed otherwise."""
        errors = [result.error for result in self.results.values() if result.error is not None]
        return max((exit_code(error) for error in errors), default=ExitCode.OK)

    def table(self) -> Table:
        """A row a node."""
        table = Table("node", box=None, pad_edge=False)
        for name in ("bytes", "seconds", "MB/s"):
            table.add_column(name, justify="right")
        table.add_column("already there")
        table.add_column("directory", overflow="fold")
        for result in self.results.values():
            name, fetched = self.names.get(result.node_id, result.node_ip), result.value
            if fetched is None:
                table.add_row(name, "", f"{result.seconds:,.1f}", "", "failed", "", style="red")
            else:
                there = "yes" if fetched.already_there else "no"
                rate = "" if fetched.already_there else f"{_mb_per_s(fetched):,.1f}"
                directory = escape(str(fetched.directory))
                table.add_row(name, f"{fetched.num_bytes:,}", f"{fetched.seconds:,.1f}", rate, there, directory)
        return table

    def json(self) -> list[dict[str, Any]]:
        """An object a node."""
        return [_json(result) for result in self.results.values()]


def _mb_per_s(fetched: Fetched) -> float:
    return fetched.num_fetched_bytes / fetched.seconds / 1e6 if fetched.seconds > 0 else 0.0


def _json(result: NodeResult[Fetched]) -> dict[str, Any]:
    fetched = result.value
    return {
        "node_id": result.node_id,
        "ip": result.node_ip,
        "ok": result.ok,
        "directory": None if fetched is None else str(fetched.directory),
        "bytes": None if fetched is None else fetched.num_bytes,
        "fetched_bytes": None if fetched is None else fetched.num_fetched_bytes,
        "already_there": None if fetched is None else fetched.already_there,
        "seconds": round(result.seconds if fetched is None else fetched.seconds, 3),
        "mb_per_s": None if fetched is None or fetched.already_there else round(_mb_per_s(fetched), 3),
        "error": None if result.error is None else {"type": type(result.error).__name__, "message": str(result.error)},
    }
