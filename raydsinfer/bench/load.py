"""How long a gang takes to fill its ranks with weights, against the floor and against DeepSpeed's own loader."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from raydsinfer.bench.memory import PeakMemory
from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext

PROMPT_TOKENS, NEW_TOKENS = 128, 64


@dataclass(frozen=True, kw_only=True)
class LoadCase:
    """One way of loading.

    Args:
        name: In the table.
        model: Directory.
        loader: Ours, or DeepSpeed's own.
        kernel_inject: Whether with DeepSpeed's fused layers.
        dtype: Of the weights.
        generate_rows: Rows of a batch to generate twice afterwards; 0 for none.
        cold: Whether to drop the files from the page cache before.
    """

    name: str
    model: str
    loader: Literal["raydsinfer", "deepspeed"] = "raydsinfer"
    kernel_inject: bool = False
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    generate_rows: int = 0
    cold: bool = False


@dataclass(kw_only=True)
class LoadResult:
    """What one rank measured.

    Args:
        parameter_bytes: Of this rank.
        host_to_device: Bytes a second from pinned memory, all ranks at once, best of several.
        fill_s: Seconds from replaced layers to filled ones; of DeepSpeed's loader, which does both in
            one call, the seconds of that call.
        weights_s: The same with describing, building and replacing the layers.
        load_s: All of `Engine.load`, imports included.
        host_bytes: Most anonymous and pinned host memory beyond what the process had before.
        peak_host_bytes: Most of it in all, torch and its libraries included.
        digest: Of the parameters, equal for equal bits.
        batch_s: Seconds of each generated batch.
        phases_s: What `Engine.load` reported.
    """

    parameter_bytes: int
    host_to_device: float
    fill_s: float
    weights_s: float
    load_s: float
    host_bytes: int
    peak_host_bytes: int
    digest: str
    batch_s: list[float] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)


def measure(context: RankContext, case: LoadCase) -> LoadResult:
    """Load once, in the process of a rank."""
    bandwidth = host_to_device(context.device)
    if case.cold and context.local_rank == 0:
        drop_from_page_cache(Path(case.model))
    torch.distributed.barrier()
    return _own(context, case, bandwidth) if case.loader == "deepspeed" else _ours(context, case, bandwidth)


def _ours(context: RankContext, case: LoadCase, bandwidth: float) -> LoadResult:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    config = EngineConfig(
        dtype=case.dtype,
        kernel_inject=case.kernel_inject,
        max_tokens=PROMPT_TOKENS + NEW_TOKENS,
        max_batch_size=max(1, case.generate_rows),
        # Continuous batching would add its KV cache and CUDA graphs to seconds and memory, the gate its canaries.
        batching="auto" if case.generate_rows else "static",
        verify="off",
    )
    engine = DeepSpeedEngine(EngineSpec(model=case.model, config=config), context)
    with PeakMemory() as memory:
        started = time.perf_counter()
        report = engine.load()
        load_s = time.perf_counter() - started
    return LoadResult(
        parameter_bytes=report.parameter_bytes,
        host_to_device=bandwidth,
        fill_s=report.filled.seconds,
        weights_s=report.phases_s["weights"],
        load_s=load_s,
        host_bytes=memory.peak_bytes - memory.start_bytes,
        peak_host_bytes=memory.peak_bytes,
        digest=digest(engine.model),
        batch_s=[_batch_s(engine, case.generate_rows) for _ in range(2)] if case.generate_rows else [],
        phases_s=report.phases_s,
    )


def _batch_s(engine: Any, rows: int) -> float:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(5, 500, (rows, PROMPT_TOKENS), generator=generator).tolist()
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    started = time.perf_counter()
    engine.generate(GenerateBatch(prompts=prompts, generation=generation))
    return time.perf_counter() - started


def _own(context: RankContext, case: LoadCase, bandwidth: float) -> LoadResult:
    from raydsinfer.engines import deepspeed_setup

    os.environ["TQDM_DISABLE"] = "1"  # its bars, one a rank, would run through the table
    deepspeed_setup.choose_accelerator(context)
    from raydsinfer.engines.deepspeed_own_loader import load_with_deepspeed

    torch.set_grad_enabled(False)
    with PeakMemory() as memory:
        started = time.perf_counter()
        deepspeed_setup.prepare(context, kernels=case.kernel_inject)
        prepared = time.perf_counter()
        model = load_with_deepspeed(
            Path(case.model),
            context,
            dtype=getattr(torch, case.dtype),
            kernels=case.kernel_inject,
            max_tokens=PROMPT_TOKENS + NEW_TOKENS,
        )
        if context.device != "cpu":
            torch.cuda.synchronize()
        done = time.perf_counter()
    return LoadResult(
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        host_to_device=bandwidth,
        fill_s=done - prepared,
        weights_s=done - prepared,
        load_s=done - started,
        host_bytes=memory.peak_bytes - memory.start_bytes,
        peak_host_bytes=memory.peak_bytes,
        digest=digest(model),
    )


def host_to_device(device: str, num_bytes: int = 256 * 2**20, times: int = 5) -> float:
    """Bytes a second that this rank copies from pinned memory to its device while the others do the same."""
    on_gpu = device != "cpu"
    source = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=on_gpu)
    target = torch.empty_like(source, device=device)
    best = 0.0
    for _ in range(times):
        torch.distributed.barrier()
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, num_bytes / (time.perf_counter() - started))
    return best


def drop_from_page_cache(directory: Path) -> None:
    """Make the next reader of these files go to the disk. Does nothing for files in memory file systems."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def digest(model: Any) -> str:
    """One number for all parameters in their order, whatever their names; computed on their device."""
    total = hashlib.sha256()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        bits = parameter.detach().contiguous().view(torch.uint8).flatten()
        # Weighted by the position, so that values in the wrong place count; a chunk at a time.
        sums = [
            int((chunk.long() * torch.arange(1, chunk.numel() + 1, device=chunk.device).remainder(65521)).sum())
            for chunk in bits.split(2**26)
        ]
        total.update(f"{tuple(parameter.shape)} {sums}".encode())
    return total.hexdigest()[:16]
