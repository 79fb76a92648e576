"""DeepSpeed engines on process groups of plain processes: load them, generate, or see why they do not load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion, EngineSpec, GenerateBatch, RankContext

NEW_TOKENS = 10


@dataclass
class Case:
    """One engine to load, and the batches to give it."""

    model: str
    config: dict[str, Any]
    batches: list[tuple[list[list[int]], dict[str, Any]]]
    answers: list[list[list[Completion]]] = field(default_factory=list)


def answer(context: RankContext, cases: list[Case]) -> list[Case]:
    """On each rank: load each case's engine and generate its batches."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    for case in cases:
        defaults = {
            "max_tokens": 128,
            "max_batch_size": 4,
            "dtype": "float32",
            "batching": "static",
            "verify": "off",  # the gate would compare each, and keep the results in the home directory
        }
        config = EngineConfig(**{**defaults, **case.config})
        engine = DeepSpeedEngine(EngineSpec(model=case.model, config=config), context)
        engine.load()
        for requests, settings in case.batches:
            generation = GenerationConfig(**{"max_new_tokens": NEW_TOKENS, **settings})
            seed = settings.get("seed", 0)
            case.answers.append(engine.generate(GenerateBatch(prompts=requests, generation=generation, seed=seed)))
        engine.close()
    return cases


def fail_to_load(context: RankContext, loads: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What loading each of some models with some settings raises."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    texts = []
    for model, settings in loads:
        config = EngineConfig(**{"max_tokens": 128, "verify": "off", **settings})
        try:
            DeepSpeedEngine(EngineSpec(model=model, config=config), context).load()
        except Exception as error:
            texts.append(f"{type(error).__name__}: {error}")
        else:
            texts.append("loaded")
    return texts


def tokens(answers: list[list[Completion]]) -> list[list[int]]:
    return [list(row[0].token_ids) for row in answers]
