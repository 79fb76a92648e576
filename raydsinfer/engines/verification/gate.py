"""The gate of one rank: canaries through the engine, the reference, the verdict of all ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.sources.fetch import cache_directory
from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.computing import compute_references
from raydsinfer.engines.verification.golden import golden_content, read_golden
from raydsinfer.engines.verification.identity import engine_identity, reference_identity
from raydsinfer.engines.verification.judging import judge, malformed
from raydsinfer.engines.verification.memory import Memory
from raydsinfer.engines.verification.reference import Reference
from raydsinfer.engines.verification.report import CanaryResult, VerificationReport
from raydsinfer.engines.verification.subject import Subject
from raydsinfer.engines.verification.together import by_first, from_all
from raydsinfer.errors import EngineError, UnsupportedError, VerificationError

_COMPARABLE = ("auto", "float32", "float16", "bfloat16")


def check(subject: Subject) -> VerificationReport:
    """Compare what an engine generates with plain transformers; all ranks call this at once.

    Returns:
        On every rank the same but for seconds.

    Raises:
        VerificationError: It is not right.
        GoldenFileError: The golden file is of no use.
        UnsupportedError: There is nothing to compare with: transformers cannot read these weights.
    """
    started = time.perf_counter()
    context, config = subject.context, subject.config
    if config.dtype not in _COMPARABLE:
        why = "quantised weights are off by more than can be told from a fault"
        raise UnsupportedError(what=f"a comparison of dtype={config.dtype!r}", why=why, instead="Use verify='off'.")
    batches = subject.batches()
    canaries = [canary for batch in batches for canary in batch]
    identity = reference_identity(
        subject.original, dtype=subject.dtype_name, vocab_size=subject.vocab_size, canaries=canaries
    )
    golden = by_first(context, lambda: _golden(config, identity, canaries))
    name = engine_identity(identity, subject.original, subject.loaded, subject.rung, config, context)
    memory = Memory(cache_directory(config.hf_home), name)
    # Each node remembers for itself: another may have other GPUs, or other bytes on its disk.
    if config.verify == "once" and all(from_all(context, memory.holds())):
        return VerificationReport(rung=subject.rung, source="remembered")
    answers = from_all(context, _answers(subject, batches))
    results, references = by_first(context, lambda: _judged(subject, canaries, answers, golden))
    report = VerificationReport(
        rung=subject.rung,
        source="transformers" if golden is None else "golden",
        canaries=results,
        seconds=time.perf_counter() - started,
    )
    if report.problems:
        raise VerificationError(attempts=((subject.rung, report.problems),), canaries=results)
    if context.local_rank == 0:
        memory.keep(_about(subject, report))
    return replace(report, golden=golden_content(identity, references))


def _golden(config: EngineConfig, identity: dict[str, str], canaries: Sequence[Canary]) -> list[Reference] | None:
    return None if config.golden is None else read_golden(Path(config.golden).expanduser(), identity, canaries)


def _answers(subject: Subject, batches: Sequence[Sequence[Canary]]) -> list[Completion]:
    """What this rank generates for each canary."""
    answers: list[Completion] = []
    for batch in batches:
        num_new = batch[0].num_new_tokens
        generation = GenerationConfig(max_new_tokens=num_new, min_new_tokens=num_new, return_logprobs=True)
        try:
            answers += subject.answer([canary.token_ids for canary in batch], generation)
        except EngineError as error:
            if error.out_of_memory:
                raise
            problem = f"{batch[0].name}: the engine failed with it ({error})"
            raise VerificationError(attempts=((subject.rung, (problem,)),)) from error
    return answers


def _judged(
    subject: Subject,
    canaries: Sequence[Canary],
    answers: Sequence[Sequence[Completion]],
    golden: Sequence[Reference] | None,
) -> tuple[tuple[CanaryResult, ...], Sequence[Reference]]:
    """On rank 0: each canary's result, and what it was compared with."""
    ranks = [[own[index] for own in answers] for index in range(len(canaries))]
    problems = [malformed(canary, given) for canary, given in zip(canaries, ranks, strict=True)]
    if any(problems):  # no reference for tokens that are none
        return tuple(
            CanaryResult(
                name=canary.name,
                num_prompt_tokens=len(canary.token_ids),
                num_new_tokens=len(given[0].token_ids),
                problem=problem,
            )
            for canary, given, problem in zip(canaries, ranks, problems, strict=True)
        ), ()
    references = golden
    if references is None:
        config = subject.config
        references = compute_references(
            subject.original,
            canaries,
            [given[0].token_ids for given in ranks],
            dtype=subject.dtype,
            device=subject.context.device,
            forbidden=subject.forbidden(canaries[0].num_new_tokens),
            scratch=cache_directory(config.hf_home) / "converted",
            trust_remote_code=config.trust_remote_code,
            on_layer=subject.on_layer,
        )
    judged = zip(canaries, ranks, references, strict=True)
    return tuple(judge(canary, given, reference) for canary, given, reference in judged), references


def _about(subject: Subject, report: VerificationReport) -> dict[str, Any]:
    return {
        "model": subject.original.name,
        "rung": report.rung,
        "dtype": subject.dtype_name,
        "ranks": subject.context.world_size,
        "compared_with": report.source,
        "seconds": round(report.seconds, 3),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
