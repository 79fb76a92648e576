"""`engine="auto"`: the way to run a model that was measured to be the fastest of those that it has. Pure.

The table is in docs/benchmarks.md, "Kernel injection, continuous and static, side by side".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.engines.families import STATIC_ONLY, check_autotp, choose_mode
from raydsinfer.errors import ConfigurationError, UnsupportedError


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

    Continuous batching over AutoTP wherever a model has it. DeepSpeed's kernels, where the model can use them, in
    place of static batches over AutoTP on GPUs, and where AutoTP cannot cut the model at all. What the settings say
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
    if config.kernel_inject or not config.ds_inference or kernels_problem:
        return Choice(config=as_said)
    why = _why_kernels(config, model_config, world_size, on_gpu=gpu_dtype is not None, stored_form=stored_form)
    if not why:
        return Choice(config=as_said)
    try:
        with_kernels = as_said.replaced({"kernel_inject": True})
        choose_mode(with_kernels, model_config, world_size, gpu_dtype=gpu_dtype)
    except ConfigurationError:
        return Choice(config=as_said)
    return Choice(config=with_kernels, why=f"engine='auto' took kernel injection: {why}")


def _why_kernels(config: EngineConfig, model_config: Any, world_size: int, *, on_gpu: bool, stored_form: str) -> str:
    """Why to prefer the kernels, if the model can use them; empty for no reason."""
    if stored_form == "deepspeed":
        return "the weights are those of DeepSpeed's fused layers"
    try:
        check_autotp(model_config, world_size)
    except UnsupportedError as error:
        return error.why
    if on_gpu and config.batching == "static":
        return "on GPUs static batches are faster with it"
    if on_gpu and config.batching == "auto" and model_config.model_type in STATIC_ONLY:
        return f"rows of {model_config.model_type} cannot join a running batch, and on GPUs static ones are faster so"
    return ""
