"""Starts DeepSpeed in a rank's process, and hands a model to `deepspeed.init_inference`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Any

from raydsinfer.engines.base import RankContext
from raydsinfer.errors import EngineError

logger = logging.getLogger(__name__)


def choose_accelerator(context: RankContext) -> None:
    """Tell DeepSpeed which kind of device it is on; must come before its first import, where it guesses."""
    os.environ["DS_ACCELERATOR"] = "cpu" if context.device == "cpu" else "cuda"


def prepare(context: RankContext, *, kernels: bool) -> None:
    """Join DeepSpeed's communication to the gang's process group, and see to its kernels.

    Args:
        context: Where this rank stands; the process group exists already.
        kernels: Whether the fused kernels are needed: built on a GPU, replaced by PyTorch on a CPU.

    Raises:
        EngineError: DeepSpeed cannot start here, or its kernels cannot be built.
    """
    on_cpu = context.device == "cpu"
    with deepspeed_errors("starting DeepSpeed"):
        import deepspeed

        # DeepSpeed's shared-memory all-reduce for CPUs needs a compiler and all ranks on one node, crashes when
        # it was not set up, and spins for ever when a rank dies. Without it the process group reduces.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl")
    if not kernels:
        return
    if on_cpu:
        from raydsinfer.engines.deepspeed_cpu_kernels import use_pytorch_fallbacks

        use_pytorch_fallbacks()
    else:
        _build_kernels()


def _build_kernels() -> None:
    """Compile the fused kernels, or load them; torch's lock lets one process of a node compile."""
    hint = "It takes nvcc of torch's CUDA version, a C++ compiler and ninja on each node; or use kernel_inject=False."
    with deepspeed_errors("building DeepSpeed's kernels", hint):
        from deepspeed.ops.op_builder import InferenceBuilder

        InferenceBuilder().load(verbose=False)


def init_inference(
    model: Any, context: RankContext, *, dtype: Any, kernels: bool, max_tokens: int, stay: bool = False
) -> Any:
    """`deepspeed.init_inference`, with its prints in the log and its errors as ours.

    Args:
        model: The transformers model; may be on the meta device.
        context: Where this rank stands.
        dtype: torch dtype of weights and activations.
        kernels: Whether layers are replaced by DeepSpeed's fused ones.
        max_tokens: Prompt plus new tokens of the longest row.
        stay: Leave the model where it is, on the meta device or the host, instead of giving it memory on the device.

    Raises:
        EngineError: DeepSpeed refused the model.
    """
    import deepspeed

    settings: dict[str, Any] = {"dtype": dtype, "tensor_parallel": {"tp_size": context.world_size}}
    if kernels:
        # The kernels shrink their KV workspace silently when memory is short; `min_out_tokens` makes them refuse.
        settings |= {"replace_with_kernel_inject": True, "max_out_tokens": max_tokens, "min_out_tokens": max_tokens}
    with deepspeed_errors("deepspeed.init_inference"), _staying(model) if stay else contextlib.nullcontext():
        return deepspeed.init_inference(model, keep_module_on_host=stay, **settings)


@contextlib.contextmanager
def _staying(model: Any) -> Any:
    """DeepSpeed knows how to leave a model on the host, but gives one on the meta device memory all the same."""
    model.to_empty = lambda **_: model
    try:
        yield
    finally:
        del model.to_empty


@contextlib.contextmanager
def deepspeed_errors(doing: str, hint: str = "") -> Any:
    """Turn what DeepSpeed raises (asserts, KeyErrors, …) into `EngineError`; its prints go to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except EngineError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise EngineError(doing=doing, reason=reason, hint=hint) from error
    finally:
        if printed.getvalue().strip():
            logger.debug("%s: %s", doing, printed.getvalue().strip())
