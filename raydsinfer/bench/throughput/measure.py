"""One engine in the process of a rank: load, warm up, time every workload."""

from __future__ import annotations

import dataclasses
import pickle
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydsinfer.bench.busy import BusyShare
from raydsinfer.bench.rates import measured_rates
from raydsinfer.bench.roofline import Rates, model_cost
from raydsinfer.bench.throughput.case import EngineCase, tokens_of_a_row
from raydsinfer.bench.throughput.results import NOT_REACHED, EngineResult, Round, WorkloadResult
from raydsinfer.bench.throughput.runners import Answers, run_continuous, run_static, statistics
from raydsinfer.bench.throughput.workspace import too_large
from raydsinfer.bench.workloads import BenchRequest, Workload
from raydsinfer.engines import create_engine
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.engines.model import build_meta, read_config, resolve_dtype
from raydsinfer.errors import EngineError, summary_of

Run = Callable[[Sequence[BenchRequest]], Answers]


def measure(context: RankContext, case: EngineCase) -> EngineResult:
    """Measure one engine; all ranks do the same, and rank 0's clock counts.

    Raises:
        ConfigurationError: The settings do not go with the model or the device.
        EngineError: The engine could not be loaded or warmed up.
    """
    from raydsinfer.checkpoints.sources.fetch import local_directory

    directory = local_directory(case.model, revision=case.config.revision, hf_home=case.config.hf_home)
    model_config = read_config(directory, trust_remote_code=case.config.trust_remote_code)
    dtype = resolve_dtype(case.config.dtype, model_config, context.device)
    rates = measured_rates(context.device, dtype)
    case, problems = _cut_to_memory(case, context, model_config, dtype)
    problems = _too_long(case) | problems
    if all(workload.name in problems for workload in case.workloads):
        return EngineResult(label=case.label, workloads=_results(case, problems, {}))
    engine = create_engine(EngineSpec(model=str(directory), config=case.config), context)
    started = time.perf_counter()
    report = engine.load()
    result = _described(case, report, rates, model_config, context, time.perf_counter() - started, dtype.itemsize)
    if case.config.batching == "continuous" and report.batching != "continuous":
        return dataclasses.replace(result, failure=f"the engine does not batch continuously: {report.note}")
    run = _runner(engine, report, case)
    captures = report.batching == "continuous"
    result = dataclasses.replace(result, warm_up_s=_timed(run, case.warm_up)[0])
    done: dict[str, WorkloadResult] = {}
    for number, workload in enumerate(case.workloads):
        if workload.name not in problems:
            shifts = range(1 + number * case.rounds, 1 + (number + 1) * case.rounds)
            done[workload.name] = _rounds(engine, run, workload, shifts, context.device, captures=captures)
        result = dataclasses.replace(result, workloads=_results(case, problems, done))
        if context.world_rank == 0 and case.progress_path:
            Path(case.progress_path).write_bytes(pickle.dumps(result))
    engine.close()
    return result


def _cut_to_memory(
    case: EngineCase, context: RankContext, model_config: Any, dtype: torch.dtype
) -> tuple[EngineCase, dict[str, str]]:
    """Of kernel injection on a GPU: leave out what its workspace has no room for, the same on all ranks."""
    if not case.config.kernel_inject or context.device == "cpu":
        return case, {}
    num_parameters = sum(p.numel() for p in build_meta(model_config, dtype).parameters())
    embedding = model_config.vocab_size * model_config.hidden_size
    weight_bytes = ((num_parameters - embedding) / context.world_size + embedding) * dtype.itemsize
    free_bytes = _reduced(torch.cuda.mem_get_info()[0] - weight_bytes, context, torch.distributed.ReduceOp.MIN)
    rows = {workload.name: tokens_of_a_row(workload, case.config) for workload in case.workloads}
    problems = too_large(
        rows,
        free_bytes,
        model_config,
        batch_size=case.config.max_batch_size,
        tp_size=context.world_size,
        item_size=dtype.itemsize,
    )
    fitting = [tokens for name, tokens in rows.items() if name not in problems]
    if not problems or not fitting:
        return case, problems
    config = case.config.replaced({"max_tokens": max(fitting)})
    return dataclasses.replace(case, config=config), problems


def _too_long(case: EngineCase) -> dict[str, str]:
    limit = case.config.max_tokens
    return {
        workload.name: f"does not fit: rows of {tokens} tokens, max_tokens is {limit}"
        for workload in case.workloads
        if (tokens := tokens_of_a_row(workload, case.config)) > limit
    }


def _described(
    case: EngineCase,
    report: LoadReport,
    rates: Rates,
    model_config: Any,
    context: RankContext,
    start_up_s: float,
    item_size: int,
) -> EngineResult:
    most_bytes = int(_reduced(report.parameter_bytes, context, torch.distributed.ReduceOp.MAX))
    num_parameters = int(_reduced(report.num_parameters, context, torch.distributed.ReduceOp.MAX))
    cost = model_cost(
        model_config,
        num_parameters=num_parameters,
        parameter_bytes=most_bytes,
        tp_size=context.world_size,
        mode=report.mode,
        item_size=item_size,
    )
    continuous = report.batching == "continuous"
    return EngineResult(
        label=case.label,
        mode=report.mode,
        batching=report.batching,
        note=report.note,
        rows_at_once=report.max_running if continuous else case.config.max_batch_size,
        page_size=case.config.kv_page_size if continuous else 0,
        num_kv_tokens=report.num_kv_tokens,
        parameter_bytes=most_bytes,
        rates=rates,
        cost=cost,
        start_up_s=start_up_s,
        phases_s=report.phases_s,
    )


def _reduced(value: float, context: RankContext, operation: Any) -> float:
    """One number of all ranks."""
    number = torch.tensor(float(value), dtype=torch.float64, device=context.device)
    torch.distributed.all_reduce(number, op=operation)
    return float(number)


def _runner(engine: Any, report: LoadReport, case: EngineCase) -> Run:
    if report.batching == "continuous":
        return lambda requests: run_continuous(engine, requests)
    return lambda requests: run_static(engine, requests, case.config.max_batch_size)


def _rounds(
    engine: Any, run: Run, workload: Workload, shifts: Sequence[int], device: str, *, captures: bool
) -> WorkloadResult:
    """A workload, once for each shift of its tokens; before, once untimed if steps are captured at their first use."""
    done = []
    try:
        if captures:
            _timed(run, workload)
        for shift in shifts:
            shifted = workload.shifted(shift)
            before = statistics(engine)
            with BusyShare(device) as busy:
                seconds, answers = _timed(run, shifted)
            after = statistics(engine)
            done.append(
                Round(
                    seconds=seconds,
                    num_steps=answers.num_steps,
                    busy_share=busy.share,
                    statistics={name: value - before.get(name, 0.0) for name, value in after.items()},
                    row_digests=tuple(zlib.crc32(np.asarray(row, "<i8").tobytes()) for row in answers.token_ids),
                )
            )
    except EngineError as error:
        if error.fatal:
            raise
        return WorkloadResult(name=workload.name, problem=summary_of(error))
    return WorkloadResult(name=workload.name, rounds=tuple(done))


def _timed(run: Run, workload: Workload) -> tuple[float, Answers]:
    torch.distributed.barrier()
    started = time.perf_counter()
    answers = run(workload.requests)
    return time.perf_counter() - started, answers


def _results(case: EngineCase, problems: dict[str, str], done: dict[str, WorkloadResult]) -> tuple[WorkloadResult, ...]:
    return tuple(
        done.get(name) or WorkloadResult(name=name, problem=problems.get(name, NOT_REACHED))
        for name in (workload.name for workload in case.workloads)
    )
