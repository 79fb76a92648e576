"""Weights in the form that DeepSpeed writes, under its compiled kernels: the tokens of the original, joined or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine_cases import Case, answer, tokens
from tests.gpu.shapes import KERNEL_SHAPES
from tests.gpu.ties import count_ties
from tests.models import prompts, write_tiny_model
from tests.ranks import run_ranks

LENGTHS, NEW_TOKENS = [40, 7, 23, 40], 24
MOST_TIES = 5  # of 96 tokens
_SETTINGS = {"kernel_inject": True, "dtype": "float16", "max_tokens": 128, "max_batch_size": 4}


def tokens_of(directory: Path, tp: int, **settings: Any) -> list[list[int]]:
    batch = (prompts(LENGTHS), {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS})
    [case] = run_ranks(
        tp, answer, [Case(str(directory), {**_SETTINGS, **settings}, [batch])], device="cuda", timeout_s=420
    )
    return tokens(case.answers[0])


@pytest.mark.parametrize("family", ["opt", "bloom"])
def test_written_and_read_again(tmp_path: Path, family: str, tp: int) -> None:
    model = write_tiny_model(family, tmp_path / "model", scale=1.5, tokenizer=False, **KERNEL_SHAPES[family])
    made = tmp_path / "made"
    expected = tokens_of(model, tp, save_mp_checkpoint_path=str(made))
    assert count_ties(model, "float16", expected, prompts(LENGTHS)) <= MOST_TIES
    assert (made / "ds_inference_config.json").is_file()
    assert tokens_of(made, tp) == expected
    if tp > 1:  # joined
        assert count_ties(model, "float16", tokens_of(made, 1), prompts(LENGTHS)) <= MOST_TIES
