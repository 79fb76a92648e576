"""The ways to run a model, fastest first, and which comes next where one is not right: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from raydsinfer.config import EngineConfig
from raydsinfer.engines.families import Mode

Rung = Literal["kernel injection", "continuous AutoTP", "static AutoTP", "continuous plain", "static plain"]
"""A way to run a model."""

LADDER: tuple[Rung, ...] = (
    "kernel injection",
    "continuous AutoTP",
    "static AutoTP",
    "continuous plain",
    "static plain",
)

_SETTINGS: Mapping[Rung, Mapping[str, Any]] = {
    "continuous AutoTP": {"kernel_inject": False, "ds_inference": True, "batching": "continuous"},
    "static AutoTP": {"kernel_inject": False, "ds_inference": True, "batching": "static"},
    "static plain": {"kernel_inject": False, "ds_inference": False, "batching": "static"},
}


def rung_of(mode: Mode, batching: str) -> Rung:
    """The rung that an engine stands on, by how it turned out to run."""
    if mode == "kernel_inject":
        return "kernel injection"
    if mode == "autotp":
        return "continuous AutoTP" if batching == "continuous" else "static AutoTP"
    return "continuous plain" if batching == "continuous" else "static plain"


def next_rung(rung: Rung, config: EngineConfig, num_ranks: int) -> tuple[Rung, EngineConfig] | None:
    """The next rung that a gang may try, and the settings for it; None if there is none.

    Whether the model can run that way only the engine knows; if not, ask for the one after it.

    Args:
        rung: The one that is not right, or cannot be had.
        config: The settings that it had.
        num_ranks: Ranks of the gang. Only one can do without DeepSpeed.
    """
    if rung == "kernel injection":
        # What lies there, or was just written, is of the kernels' own form.
        config = config.replaced({"save_mp_checkpoint_path": None})
    for lower in LADDER[LADDER.index(rung) + 1 :]:
        if lower in _SETTINGS and _is_possible(lower, config, num_ranks):
            return lower, config.replaced({**_SETTINGS[lower], "engine": "deepspeed"})  # "auto" would choose again
    return None


def _is_possible(rung: Rung, config: EngineConfig, num_ranks: int) -> bool:
    if rung == "continuous AutoTP":  # who asked for static batches from the start has a reason
        return config.use_cache and config.batching != "static" and config.ds_inference
    if rung == "static AutoTP":
        return config.ds_inference
    return num_ranks == 1 and config.save_mp_checkpoint_path is None
