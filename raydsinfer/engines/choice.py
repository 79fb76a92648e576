"""`engine="auto"`: the fastest of the ways to run a model that it has, by what was measured so far. Pure.

The table is in docs/benchmarks.md, "Every family, side by side"; what follows from it for other GPUs is reckoned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.engines.families import FAMILIES, Family, check_autotp, choose_mode
from raydsinfer.errors import ConfigurationError, UnsupportedError

_TOOK = "engine='auto' took kernel injection: "

_NO_FASTER_ALONE = frozenset({"bloom"})
"""Families whose kernels are no clear gain on one rank: DeepSpeed joins keys and values for each token, in Python."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen.

    Args:
        config: The settings, with an engine that is not ``auto``.
        why: Why kernel injection; empty where it was not chosen, or there was no choice.
    """

    config: EngineConfig
    why: str = ""


def choose_engine(
    config: EngineConfig,
    model_config: Any,
    world_size: int,
    *,
    gpu_dtype: str | None,
    stored_form: str = "",
    kernels_problem: str = "",
) -> Choice:
    """What ``engine="auto"`` stands for.

    Continuous batching over AutoTP wherever a model has it. DeepSpeed's kernels, where the model can use them, for
    static batches that were asked for, on GPUs, and where AutoTP cannot cut the model at all. What the settings say
    besides is kept: ``kernel_inject=True``, ``ds_inference=False`` and ``batching="continuous"`` leave no choice.

    Args:
        config: Inference settings.
        model_config: The model's `transformers` configuration.
        world_size: Number of ranks.
        gpu_dtype: Dtype of activations on a GPU; None on CPUs, where the kernels are PyTorch code and not faster.
        stored_form: Form of the weights, see `Description`.
        kernels_problem: Why the kernels cannot be built; empty if that is not known.
    """
    if config.engine != "auto":
        return Choice(config=config)
    as_said = config.replaced({"engine": "deepspeed"})
    if config.kernel_inject or not config.ds_inference or config.dtype == "int8":  # of which kernels have none
        return Choice(config=as_said)
    with_kernels = as_said.replaced({"kernel_inject": True})
    if why := _why_nothing_else(model_config, world_size, stored_form):
        # Also where they cannot be had: then that is what is to be said.
        return Choice(config=with_kernels, why=_TOOK + why)
    why = _why_rather(config, model_config, world_size, on_gpu=gpu_dtype is not None)
    # Slices for AutoTP may be of no use to the kernels.
    if not why or kernels_problem or stored_form == "ranks":
        return Choice(config=as_said)
    try:
        choose_mode(with_kernels, model_config, world_size, gpu_dtype=gpu_dtype)
    except ConfigurationError:
        return Choice(config=as_said)
    return Choice(config=with_kernels, why=_TOOK + why)


def may_take_kernels(config: EngineConfig) -> bool:
    """Whether a gang with these settings has kernels, as far as one can know without the model."""
    if config.engine != "auto":
        return config.kernel_inject
    open_to_them = config.ds_inference and config.use_cache and config.dtype != "int8"
    return config.kernel_inject or (open_to_them and config.batching != "continuous")


def _why_nothing_else(model_config: Any, world_size: int, stored_form: str) -> str:
    """Why a model runs on the kernels or not at all; empty if it may run otherwise."""
    if stored_form == "deepspeed":
        return "the weights are those of DeepSpeed's fused layers"
    try:
        check_autotp(model_config, world_size)
    except UnsupportedError as error:
        has_kernels = FAMILIES.get(model_config.model_type, Family()).kernels is not None
        return error.why if has_kernels else ""
    return ""


def _why_rather(config: EngineConfig, model_config: Any, world_size: int, *, on_gpu: bool) -> str:
    """Why the kernels are the better way, if the model can use them; empty if they are not."""
    no_faster = world_size == 1 and model_config.model_type in _NO_FASTER_ALONE
    if on_gpu and config.batching == "static" and not no_faster:
        return "on GPUs static batches are faster with it"
    return ""
