"""Decode steps captured as CUDA graphs, one for each batch size that occurs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from raydsinfer.engines.continuous.attention.base import DecodeAttention


@dataclass(frozen=True, kw_only=True)
class CapturedStep:
    """A graph and what it reads and writes.

    Args:
        graph: To be replayed.
        inputs: The rows, int64 (4, batch): see `step_inputs.decode_array`.
        logits: (batch, vocabulary); overwritten by each replay.
        decode: The attention that was captured; gets ready on the host before each replay.
    """

    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    logits: torch.Tensor
    decode: DecodeAttention


class Graphs:
    """Captures on first use. All graphs share one memory pool: only one runs at a time."""

    def __init__(self) -> None:
        self._steps: dict[tuple[int, int], CapturedStep] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._steps)

    def find(self, batch: int, longest: int) -> CapturedStep | None:
        """The captured step for so many rows and tokens, if there is one."""
        return self._steps.get((batch, longest))

    def capture(
        self,
        batch: int,
        longest: int,
        inputs: torch.Tensor,
        decode: DecodeAttention,
        run: Callable[[], torch.Tensor],
    ) -> CapturedStep:
        """Capture a step.

        Args:
            batch: Rows.
            longest: Tokens that no row sees more of.
            inputs: What `run` reads, with harmless values in it.
            decode: The attention that `run` uses.
            run: Makes the forward and returns its logits.
        """
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries set themselves up, which cannot be captured
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the GPU meanwhile (a rank's copies do not): only ours is captured.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = run()
        self._pool = self._pool or graph.pool()
        step = CapturedStep(graph=graph, inputs=inputs, logits=logits, decode=decode)
        self._steps[batch, longest] = step
        return step
