"""A plan for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.planning.next_step import next_code, next_commands, next_settings
from raydsinfer.planning.plan import Plan


def plan_json(plan: Plan, *, address: str | None = None) -> dict[str, Any]:
    """All of a plan, as JSON can hold it.

    Args:
        plan: The plan.
        address: Of the Ray cluster, if one was said.
    """
    model = plan.model
    return {
        "ok": not plan.problems,
        "model": {
            "name": without_secrets(plan.wanted.model),
            "family": model.family,
            "num_parameters": model.num_parameters,
            "num_layers": len(model.layers),
            "num_kv_heads": model.num_kv_heads,
            "positions": model.positions,
            "saved_as": model.saved_as,
            "stored": asdict(model.stored) if model.stored else None,
        },
        "gang": {
            "num_ranks": plan.num_ranks,
            "proposed": plan.proposed,
            "use_gpu": plan.wanted.use_gpu,
            "engine": plan.engine,
            "dtype": plan.dtype,
            "bundle": dict(plan.request.bundle),
            "placement_strategy": plan.request.strategy,
        },
        "engines": [asdict(verdict) for verdict in plan.verdicts],
        "memory": asdict(plan.memory),
        "placement": {
            "gangs": [
                {
                    "gang": gang.gang,
                    "ranks": {plan.cluster.name_of(node): num for node, num in gang.ranks_by_node.items()},
                    "problem": gang.problem,
                }
                for gang in plan.placed
            ],
            "gangs_now": plan.gangs_now,
            "gangs_if_idle": plan.gangs_idle,
        },
        "nodes": [asdict(node) for node in plan.cluster.nodes],
        "needs": [asdict(need) for need in plan.needs],
        "gpu_holders": [
            {**asdict(holder), "node": plan.cluster.name_of(holder.node_id)} for holder in plan.cluster.holders
        ],
        "problems": [asdict(problem) for problem in plan.problems],
        "remarks": list(plan.remarks),
        "next": {
            "commands": next_commands(plan, address=address),
            "settings": next_settings(plan),
            "code": next_code(plan, address=address),
        },
    }
