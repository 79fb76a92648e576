"""BLOOM and Llama under kernel injection on real process groups: their tokens are those of plain transformers.

DeepSpeed keeps state in the process, so each engine has processes of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_deepspeed_engine import NEW_TOKENS, Case, answer, tokens
from tests.models import plain_greedy, prompts, write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS = 64
PADDED = [12, 1, 5, 9]
LONG = [MAX_TOKENS - 1, 40]

_LLAMA = {"hidden_size": 128, "intermediate_size": 256}  # the kernels cannot rotate heads of less than 32
_ROPE = {"rope_type": "default", "rope_theta": 500.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Slopes of 6 heads are not those of 8 or 4 heads: those past a power of two come from another series.
    "bloom": ("bloom", {"hidden_size": 96, "n_head": 6}),
    "llama": (
        "llama",
        {**_LLAMA, "num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "llama_gqa": ("llama", {**_LLAMA, "num_key_value_heads": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "world_size", "meta"),
    [
        ("bloom", 2, False),
        ("bloom", 2, True),
        ("llama", 1, False),
        ("llama", 2, True),
        ("llama_gqa", 2, False),
        ("llama_gqa", 2, True),
    ],
)
def test_tokens_equal_those_of_transformers(tmp_path: Path, model: str, world_size: int, meta: bool) -> None:
    family, changes = MODELS[model]
    directory = write_tiny_model(family, tmp_path / model, spread=0.3, **changes)
    padded, long = prompts(PADDED), prompts(LONG, seed=2)
    case = Case(
        str(directory),
        {"kernel_inject": True, "use_meta_tensor": meta, "max_tokens": MAX_TOKENS},
        [
            (padded, {}),
            *(([prompt], {}) for prompt in padded),  # the second is of one token, after a longer batch
            (long, {"max_new_tokens": 1}),
        ],
    )
    [done] = run_ranks(world_size, answer, [case])
    expected = plain_greedy(directory, padded, NEW_TOKENS)
    assert tokens(done.answers[0]) == expected, "a padded batch"
    assert [tokens(answers)[0] for answers in done.answers[1:-1]] == expected, "one at a time"
    assert tokens(done.answers[-1]) == plain_greedy(directory, long, 1), "a prompt that fills the KV cache"
