"""Makes a plan on the cluster that a command works on, and leaves the cluster as it was."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stdout

from raydsinfer.cli.cluster import cluster
from raydsinfer.groups.nodes import alive_nodes
from raydsinfer.nodes import NodeResult
from raydsinfer.planning.gather import read_cluster
from raydsinfer.planning.look import Look
from raydsinfer.planning.model import read_model
from raydsinfer.planning.plan import Plan, make_plan
from raydsinfer.planning.verdicts import require_length
from raydsinfer.planning.wanted import Wanted

PROBE_TIMEOUT_S = 120.0
"""On a cold disk importing torch alone may take a minute."""


def planned(
    wanted: Wanted,
    *,
    address: str | None,
    num_cpus: int,
    debug: bool,
    timeout_s: float = PROBE_TIMEOUT_S,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Plan:
    """Read the model, look at the cluster, make the plan.

    Args:
        wanted: What is planned.
        address: Ray address.
        num_cpus: CPUs that the gangs need, see `cluster`.
        debug: Whether to show logs.
        timeout_s: Seconds for each probe on a node.
        on_stage: Told what is done.

    Raises:
        CheckpointError: There is no such model, or it is of no use.
        ConfigurationError: A setting is wrong.
    """
    with redirect_stdout(io.StringIO()):  # DeepSpeed logs there, and is loaded by the way
        model = read_model(wanted.model, wanted.config)
    require_length(model, wanted.config)
    on_stage("connecting to the cluster")
    with redirect_stdout(sys.stderr), cluster(address, num_cpus=num_cpus, debug=debug):  # Ray prints there
        num_nodes, done = len(alive_nodes()), 0

        def counted(result: NodeResult[Look]) -> None:
            nonlocal done
            done += 1
            on_stage(f"looking at the nodes: {done} of {num_nodes}")

        on_stage(f"looking at the nodes: 0 of {num_nodes}")
        found = read_cluster(wanted, model, timeout_s=timeout_s, on_node=counted)
    return make_plan(wanted, model, found)
