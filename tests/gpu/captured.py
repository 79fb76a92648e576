"""How long work takes on a GPU when it is captured: nothing of Python's time is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def captured_us(runs: Sequence[Callable[[], object]], *, replays: int) -> float:
    """Microseconds of one of `runs` on the mean, captured together, one after the other, and replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            runs[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        graph.replay()
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1000 / replays / len(runs)
