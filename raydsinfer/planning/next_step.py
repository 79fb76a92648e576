"""The commands, and the code, that do what was planned. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.planning.plan import Plan
from raydsinfer.planning.verdicts import ENGINES
from raydsinfer.planning.wanted import ranks_flag

_INPUT, _OUTPUT = "prompts.jsonl", "answers.jsonl"


def next_settings(plan: Plan) -> dict[str, Any]:
    """The inference settings to go on with: those that were asked for, changed where these cannot be."""
    said: dict[str, Any] = plan.wanted.config.model_dump(exclude_unset=True)
    if plan.best is not None:
        # "auto" would choose again.
        said |= {**ENGINES[plan.best.engine][1], "dtype": plan.best.dtype, "engine": "deepspeed"}
        if plan.best.engine == "continuous":
            said.pop("batching", None)  # "auto" takes it
        defaults = type(plan.wanted.config)()
        said = {name: value for name, value in said.items() if value != getattr(defaults, name)}
    return said


def next_commands(plan: Plan, *, address: str | None = None) -> list[str]:
    """What to run next; none if nothing will do.

    Args:
        plan: The plan.
        address: Of the Ray cluster, if one was said.
    """
    no_place = not plan.gangs_idle and plan.wanted.assumed is None
    if no_place or plan.memory.problem or (plan.verdict.possible is False and plan.best is None):
        return []
    model = shlex.quote(without_secrets(plan.wanted.model))
    there = f" --address {shlex.quote(address)}" if address else ""
    commands = []
    if any(need.disk_bytes for need in plan.needs) and any(node.missing_bytes for node in plan.cluster.nodes):
        said = plan.wanted.config.model_dump(exclude_unset=True)
        source = _flags({name: said[name] for name in ("revision", "hf_home") if name in said})
        commands.append(f"raydsinfer fetch {model}{source}{' --gpu-only' if plan.wanted.use_gpu else ''}{there}")
    shape = f" {ranks_flag(use_gpu=plan.wanted.use_gpu)} {plan.num_ranks}"
    if len(plan.placed) > 1:
        shape += f" --num-worker-groups {len(plan.placed)}"
    if plan.wanted.placement_strategy != "PACK":
        shape += f" --placement-strategy {plan.wanted.placement_strategy}"
    if plan.wanted.accelerator_type:
        shape += f" --accelerator-type {shlex.quote(plan.wanted.accelerator_type)}"
    commands.append(f"raydsinfer generate {model} {_INPUT} {_OUTPUT}{shape}{_flags(next_settings(plan))}{there}")
    return commands


def next_code(plan: Plan, *, address: str | None = None) -> str:
    """The same in Python; empty if nothing will do.

    Args:
        plan: The plan.
        address: As for `next_commands`.
    """
    if not next_commands(plan):
        return ""
    settings = "".join(f", {name}={value!r}" for name, value in next_settings(plan).items()).removeprefix(", ")
    gangs = len(plan.placed)
    scaling = f"num_workers={plan.num_ranks}, use_gpu={plan.wanted.use_gpu}"
    if plan.wanted.placement_strategy != "PACK":
        scaling += f", placement_strategy={plan.wanted.placement_strategy!r}"
    if plan.wanted.accelerator_type:
        scaling += f", accelerator_type={plan.wanted.accelerator_type!r}"
    connect = f"ray.init(address={address!r})\n" if address else ""
    return (
        "import ray\n"
        "from ray.train import ScalingConfig\n"
        "from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig\n\n"
        f"{connect}checkpoint = DeepSpeedCheckpoint.from_pretrained(\n"
        f"    {without_secrets(plan.wanted.model)!r}, EngineConfig({settings}))\n"
        f"scaling = ScalingConfig({scaling})\n"
        f"predictor = BatchPredictor.from_checkpoint(checkpoint, DeepSpeedPredictor, scaling_config=scaling)\n"
        f"dataset = ray.data.read_json({_INPUT!r})\n"
        f"predictor.predict(dataset, min_scoring_workers={gangs}, max_scoring_workers={gangs})"
    )


def _flags(settings: Mapping[str, Any]) -> str:
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (BaseModel, Mapping)) or value is None:
            continue  # of rehearsals, or the default
        else:
            words.append(f"--{flag} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)
