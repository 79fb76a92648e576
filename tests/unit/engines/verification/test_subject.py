from pathlib import Path
from types import SimpleNamespace

import torch

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, RankContext
from raydsinfer.engines.verification.subject import Subject


def subject(**generation):
    own = dict.fromkeys(
        (
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_eos_token_id",
        )
    )
    return Subject(
        spec=EngineSpec(model="m", config=EngineConfig(max_tokens=64)),
        context=RankContext(),
        original=Path("m"),
        loaded=Path("m"),
        rung="static plain",
        dtype=torch.float32,
        vocab_size=10,
        generation_config=SimpleNamespace(**{**own, **generation}),
        answer=lambda prompts, generation: [],
    )


def test_what_cannot_be_chosen():
    found = subject(eos_token_id=[2, 3], begin_suppress_tokens=[5], forced_eos_token_id=2).forbidden(3)
    assert found == [{2, 3, 5}, {2, 3}, set(range(10)) - {2}]


def test_an_end_that_the_model_does_not_have_forbids_nothing():
    assert subject(eos_token_id=5000, suppress_tokens=[-1, 4]).forbidden(2) == [{4}, {4}]
