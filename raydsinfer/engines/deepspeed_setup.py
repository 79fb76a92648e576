"""Starts DeepSpeed in a rank's process, and hands a model to `deepspeed.init_inference`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Any

from raydsinfer.engines.base import RankContext
from raydsinfer.engines.deepspeed_ops import KERNELS, sole_builder
from raydsinfer.errors import EngineError, KernelBuildError, RaydsinferError, UnsupportedError, summary_of

logger = logging.getLogger(__name__)

_MOST_LINES = 12  # of what a compiler wrote; the cause is at its end
_MOST_CHARS = 300  # of a line: compilers repeat their arguments
# How DeepSpeed's AutoTP says, in assertions, that it does not know a model.
_UNKNOWN_TO_AUTOTP = ("AutoTP not supported for model", "Not able to determine model policy automatically")


def choose_accelerator(context: RankContext) -> None:
    """Tell DeepSpeed which kind of device it is on; must come before its first import, where it guesses."""
    os.environ["DS_ACCELERATOR"] = "cpu" if context.device == "cpu" else "cuda"


def prepare(context: RankContext, *, kernels: bool) -> None:
    """Join DeepSpeed's communication to the gang's process group, and see to its kernels.

    Args:
        context: Where this rank stands; the process group exists already.
        kernels: Whether the fused kernels are needed: built on a GPU, replaced by PyTorch on a CPU.

    Raises:
        EngineError: DeepSpeed cannot start here.
        KernelBuildError: Its kernels cannot be built.
    """
    on_cpu = context.device == "cpu"
    if kernels:
        _require_fresh_process()
    with deepspeed_errors("starting DeepSpeed"):
        import deepspeed

        # DeepSpeed's shared-memory all-reduce for CPUs needs a compiler and all ranks on one node, crashes when
        # it was not set up, and spins for ever when a rank dies. Without it the process group reduces.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl")
    if not kernels:
        return
    if on_cpu:
        from raydsinfer.engines.deepspeed_kernels.cpu_ops import use_pytorch_fallbacks

        use_pytorch_fallbacks()
    else:
        build_kernels()


def _require_fresh_process() -> None:
    """The workspace, the layout and the counts of layers of a process's first model would be its second one's."""
    from deepspeed.module_inject import replace_module

    if replace_module.container_g is not None:
        raise EngineError(
            doing="kernel injection",
            reason="this process has held another model, and DeepSpeed keeps that one's layout and workspace",
            hint="Load each model in a process of its own, as gangs do.",
        )


def build_kernels() -> None:
    """Compile the fused kernels, or load them. One process of a node compiles at a time.

    Raises:
        KernelBuildError: They cannot be built.
    """
    hint = (
        "It takes nvcc of torch's CUDA version, a C++ compiler and ninja on each node; "
        "or use kernel_inject=False (automatic tensor parallelism)."
    )
    with deepspeed_errors("building DeepSpeed's kernels", hint, KernelBuildError):
        from deepspeed.ops.op_builder import InferenceBuilder

        with sole_builder(KERNELS):
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
        UnsupportedError: DeepSpeed's AutoTP does not know the model.
        EngineError: DeepSpeed refused the model.
    """
    import deepspeed

    settings: dict[str, Any] = {"dtype": dtype, "tensor_parallel": {"tp_size": context.world_size}}
    if kernels:
        # The kernels shrink their KV workspace silently when memory is short; `min_out_tokens` makes them refuse.
        settings |= {"replace_with_kernel_inject": True, "max_out_tokens": max_tokens, "min_out_tokens": max_tokens}
    with deepspeed_errors("deepspeed.init_inference"), _staying(model) if stay else contextlib.nullcontext():
        try:
            return deepspeed.init_inference(model, keep_module_on_host=stay, **settings)
        except AssertionError as error:
            if not str(error).startswith(_UNKNOWN_TO_AUTOTP):
                raise
            raise UnsupportedError(
                what=f"{model.config.model_type} on {context.world_size} ranks",
                why=f"DeepSpeed's automatic tensor parallelism does not know which of its layers to slice ({error})",
                instead="Use num_workers=1, or another model.",
            ) from error


@contextlib.contextmanager
def _staying(model: Any) -> Any:
    """DeepSpeed knows how to leave a model on the host, but gives one on the meta device memory all the same."""
    model.to_empty = lambda **_: model
    try:
        yield
    finally:
        del model.to_empty


@contextlib.contextmanager
def deepspeed_errors(doing: str, hint: str = "", kind: type[EngineError] = EngineError) -> Any:
    """Turn what DeepSpeed raises (asserts, KeyErrors, …) into an `EngineError`; its prints go to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except RaydsinferError:
        raise
    except Exception as error:
        raise kind(doing=doing, reason=reason_of(error), hint=hint) from error
    finally:
        if printed.getvalue().strip():
            logger.debug("%s: %s", doing, printed.getvalue().strip())


def reason_of(error: BaseException) -> str:
    """What another library raised, in few lines: all of them, or the first and, of a compiler's output, the last."""
    lines = [line[:_MOST_CHARS] for line in str(error).strip().rstrip(".").splitlines()]
    if len(lines) <= 1:
        return summary_of(error).rstrip(".")
    shown = lines[1:] if len(lines) <= _MOST_LINES + 1 else ["…", *lines[-_MOST_LINES:]]
    return "\n  ".join([f"{type(error).__name__}: {lines[0]}", *shown])
