"""What torch and transformers raise, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raydsinfer.engines.out_of_memory import memory_shortage
from raydsinfer.errors import EngineError, RaydsinferError, summary_of

MEMORY_HINT = "Lower max_batch_size or max_tokens, or use more ranks."
"""Where rows are generated in static batches."""

STEP_HINT = "Lower gpu_memory_utilization or max_step_tokens, or use more ranks."
"""Where a KV cache has taken most of the memory."""


@contextmanager
def engine_errors(doing: str, hint: str = "", *, memory_hint: str = MEMORY_HINT) -> Iterator[None]:
    """Raise `EngineError` for what is not an error of ours already.

    Args:
        doing: What the engine is doing.
        hint: The next step.
        memory_hint: The next step if the memory does not do.
    """
    try:
        yield
    except RaydsinferError:
        raise
    except Exception as error:
        if shortage := memory_shortage(error):
            reason = f"{shortage} ({summary_of(error)})"
            raise EngineError(doing=doing, reason=reason, hint=memory_hint, out_of_memory=True) from error
        # After an error on the device itself nothing works in this process any more.
        fatal = isinstance(error, torch.AcceleratorError)
        raise EngineError(doing=doing, reason=f"{type(error).__name__}: {error}", hint=hint, fatal=fatal) from error
