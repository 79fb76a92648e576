"""DeepSpeed's CUDA kernels, family by family: greedy tokens are those of plain transformers but for ties.

One process start for each family and number of ranks; each of its cases prints a line, and all are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine_cases import Case, answer, tokens
from tests.gpu.shapes import KERNEL_SHAPES
from tests.gpu.ties import PlainModel
from tests.models import prompts, write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS = 384
NEW_TOKENS = 24
MOST_TIES = 0.05  # of the tokens of a family
# Lengths of the prompts of each batch, and new tokens.
BATCHES: dict[str, tuple[list[int], int]] = {
    "padded": ([40, 7, 23, 40], NEW_TOKENS),
    "single": ([7], NEW_TOKENS),
    "equal lengths": ([32, 32, 32, 32], NEW_TOKENS),
    "one token beside a long prompt": ([300, 1, 120], NEW_TOKENS),
    "one token": ([1], NEW_TOKENS),
    "long answers": ([250, 200], MAX_TOKENS - 250),  # over the edge of a window of 256
    "as long as it can be": ([MAX_TOKENS - 1], 1),
}
_SETTINGS = {"kernel_inject": True, "dtype": "float16", "max_tokens": MAX_TOKENS, "max_batch_size": 4}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: write_tiny_model(name.partition(",")[0], root / str(at), scale=1.5, tokenizer=False, **shape)
        for at, (name, shape) in enumerate(KERNEL_SHAPES.items())
    }


def batches() -> list[tuple[list[list[int]], dict[str, Any]]]:
    return [
        (prompts(lengths, seed=seed), {"max_new_tokens": new, "min_new_tokens": new})
        for seed, (lengths, new) in enumerate(BATCHES.values())
    ]


@pytest.mark.parametrize("name", KERNEL_SHAPES)
def test_greedy_tokens_equal_transformers(directories: dict[str, Path], name: str, tp: int) -> None:
    given = Case(str(directories[name]), {**_SETTINGS}, batches())
    # The first of all compiles the kernels.
    [case] = run_ranks(tp, answer, [given], device="cuda", timeout_s=420)
    plain, wrong, ties, count = PlainModel(directories[name], "float16"), [], 0, 0
    print()
    for label, (requests, settings), answers in zip(BATCHES, case.batches, case.answers, strict=True):
        got, size = tokens(answers), settings["max_new_tokens"] * len(requests)
        try:
            assert [len(row) for row in got] == [settings["max_new_tokens"]] * len(requests)
            tied = plain.count_ties(got, requests)
            print(f"{name}, tp {tp}, {label}: {tied} ties of {size}")
            ties, count = ties + tied, count + size
        except AssertionError as error:
            wrong.append(label)
            print(f"{name}, tp {tp}, {label}: WRONG, {str(error).splitlines()[0]}")
    assert not wrong
    assert ties <= MOST_TIES * count
