"""What is known of each model family under DeepSpeed, and the mode that follows for a gang."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.config import EngineConfig
from raydsinfer.engines import kernel_limits
from raydsinfer.errors import InvalidSettingError, UnsupportedError

Mode = Literal["kernel_inject", "autotp", "plain"]

_MAX_KEYS = 8192  # the kernels' softmax holds 8 x 4 of them in each of 256 threads, and does not check
_MAX_WIDTH = 8192  # elements of a rank's query, which 1024 threads move 8 at a time


@dataclass(frozen=True)
class Family:
    """How far a model family goes.

    Args:
        kernels: There is an adapter for DeepSpeed's fused kernels; says of a configuration why they cannot
            compute it, or nothing if they can. None if there is no adapter.
        kernels_on_gpu: Says of a configuration and a dtype why the compiled kernels cannot compute it, or nothing.
        autotp_problem: Why automatic tensor parallelism is refused; empty where it was checked token for
            token against transformers.
    """

    kernels: Callable[[Any], str] | None = None
    kernels_on_gpu: Callable[[Any, str], str] = kernel_limits.any_dtype
    autotp_problem: str = ""


# By `model_type` of config.json. A family that is not listed may run under AutoTP, unchecked.
FAMILIES = {
    "opt": Family(kernels=kernel_limits.opt),
    "gptj": Family(kernels=kernel_limits.gptj, kernels_on_gpu=kernel_limits.gptj_on_gpu),
    "gpt_neox": Family(kernels=kernel_limits.gpt_neox, kernels_on_gpu=kernel_limits.gpt_neox_on_gpu),
    "gpt_neo": Family(kernels=kernel_limits.gpt_neo),
    "llama": Family(kernels=kernel_limits.llama, kernels_on_gpu=kernel_limits.llama_on_gpu),
    "qwen2": Family(),
    "mistral": Family(),
    "gpt2": Family(
        kernels=kernel_limits.gpt2, autotp_problem="DeepSpeed has no automatic tensor parallelism for GPT-2"
    ),
    "bloom": Family(kernels=kernel_limits.bloom, kernels_on_gpu=kernel_limits.bloom_on_gpu),
}


def choose_mode(config: EngineConfig, model_config: Any, world_size: int, *, gpu_dtype: str | None = None) -> Mode:
    """How this model runs under these settings.

    Args:
        config: Inference settings; ``engine="auto"`` must have been decided, see `choose_engine`.
        model_config: The model's `transformers` configuration.
        world_size: Number of ranks.
        gpu_dtype: Dtype of activations on a GPU; None on CPUs.

    Raises:
        UnsupportedError: The family or the number of ranks does not go with the settings.
        InvalidSettingError: `max_tokens` is more than the model has positions for.
    """
    _check_length(config, model_config)
    _check_batching(config)
    if not config.ds_inference:
        if world_size > 1:
            raise UnsupportedError(
                what=f"ds_inference=False on {world_size} ranks",
                why="plain transformers does not shard the model",
                instead="Use num_workers=1, or leave ds_inference on.",
            )
        return "plain"
    if config.kernel_inject:
        _check_kernels(config, model_config, world_size, gpu_dtype)
        return "kernel_inject"
    check_autotp(model_config, world_size)
    return "autotp"


def _check_length(config: EngineConfig, model_config: Any) -> None:
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions is not None and config.max_tokens > positions:
        raise InvalidSettingError(
            name="max_tokens",
            value=config.max_tokens,
            expected=f"at most {positions}, the positions that this {model_config.model_type} model has",
        )


def _check_batching(config: EngineConfig) -> None:
    if config.batching != "continuous":
        return
    for name, value, why in (
        ("kernel_inject", True, "DeepSpeed's kernels keep a KV cache of their own, one batch at a time"),
        ("use_cache", False, "it lives from the KV cache"),
    ):
        if getattr(config, name) == value:
            raise UnsupportedError(
                what=f"batching='continuous' with {name}={value}", why=why, instead="Use batching='static'."
            )


def _check_kernels(config: EngineConfig, model_config: Any, world_size: int, gpu_dtype: str | None) -> None:
    family = model_config.model_type
    what, instead = f"kernel_inject=True for {family}", _without_kernels(family, world_size)
    known = FAMILIES.get(family, Family())
    if known.kernels is None:
        names = ", ".join(name for name, known in FAMILIES.items() if known.kernels)
        raise UnsupportedError(what=what, why=f"adapters exist for: {names}", instead=instead)
    if why := known.kernels(model_config):
        raise UnsupportedError(what=what, why=why, instead=instead)
    if gpu_dtype is not None and (why := known.kernels_on_gpu(model_config, gpu_dtype)):
        instead = f"Use dtype='float16' or 'bfloat16'. Or: {instead}"
        raise UnsupportedError(what=f"{what} in {gpu_dtype} on a GPU", why=why, instead=instead)
    heads = model_config.num_attention_heads
    if heads % world_size:
        why = f"the kernels need {heads} heads to divide by {world_size} ranks"
        fitting = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise UnsupportedError(what=what, why=why, instead=f"{instead} Or one of these for num_workers: {fitting}.")
    if config.max_tokens > _MAX_KEYS:
        why = f"the kernels' softmax holds {_MAX_KEYS} tokens a row at most"
        raise UnsupportedError(what=f"{what} with max_tokens={config.max_tokens}", why=why, instead=instead)
    if family != "bloom" and model_config.hidden_size > _MAX_WIDTH * world_size:
        why = (
            f"the kernels move {_MAX_WIDTH} of {model_config.hidden_size} elements of the hidden size on a rank at most"
        )
        raise UnsupportedError(what=what, why=why, instead="Use more ranks, or kernel_inject=False.")
    if family == "llama" and model_config.intermediate_size % (8 * world_size):
        why = f"the kernels move 8 elements at a time, and {world_size} ranks share {model_config.intermediate_size}"
        raise UnsupportedError(what=what, why=f"{why} of the MLP", instead=instead)
    if not config.use_cache:
        why = "the kernels always keep the KV cache"
        raise UnsupportedError(what=f"{what} with use_cache=False", why=why, instead="Leave use_cache on.")


def _without_kernels(family: str, world_size: int) -> str:
    """What to use instead of the kernels."""
    if world_size > 1 and FAMILIES.get(family, Family()).autotp_problem:
        return "Use kernel_inject=False and num_workers=1."
    if world_size > 1 and family not in FAMILIES:
        return "Use kernel_inject=False; if DeepSpeed cannot slice this model either, num_workers=1 as well."
    return "Use kernel_inject=False (automatic tensor parallelism)."


def check_autotp(model_config: Any, world_size: int) -> None:
    """Whether a model can be sliced over so many ranks without kernels.

    Raises:
        UnsupportedError: It cannot.
    """
    if world_size == 1:
        return
    family = model_config.model_type
    problem = FAMILIES.get(family, Family()).autotp_problem
    if problem:
        kernels = "" if FAMILIES[family].kernels is None else "kernel_inject=True, or "
        raise UnsupportedError(
            what=f"{family} on {world_size} ranks",
            why=problem,
            instead=f"Use {kernels}num_workers=1, or another model.",
        )
    heads = getattr(model_config, "num_key_value_heads", None) or getattr(model_config, "num_attention_heads", None)
    if heads is not None and world_size > heads:
        raise UnsupportedError(
            what=f"{family} on {world_size} ranks",
            why=f"its {heads} key-value heads leave some ranks without any",
            instead=f"Use num_workers={heads} or fewer.",
        )


def check_stored_form(description: Description, *, kernels: bool) -> None:
    """Whether weights can be loaded with or without kernel injection.

    Args:
        description: The weights.
        kernels: Whether layers are replaced by DeepSpeed's fused ones.

    Raises:
        UnsupportedError: DeepSpeed wrote them, of its fused layers, and there will be none.
    """
    if description.form == "deepspeed" and not kernels:
        raise UnsupportedError(
            what=f"loading {description.directory} without kernel injection",
            why=f"DeepSpeed wrote it for {description.tp_size} ranks of its fused layers, which only its kernels have",
            instead="Use kernel_inject=True, or the original weights.",
        )
