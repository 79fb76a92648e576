"""A full batch of prompts that are nearly as long as they can be does not run into the kernels' KV cache."""

from __future__ import annotations

from pathlib import Path

from tests.engine_cases import Case, answer, tokens
from tests.gpu.ties import count_ties
from tests.models import prompts, write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS, ROWS, NEW_TOKENS = 384, 4, 24
MOST_TIES = 0.05  # of the tokens
# On two ranks activations take 3 + 2 x 3 / 2 times the hidden size, and DeepSpeed leaves room for 10 / 2.
WIDE_MLP = {
    "hidden_size": 768,
    "intermediate_size": 3 * 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 512,
}


def test_a_full_batch_of_long_prompts(tmp_path: Path, tp: int) -> None:
    directory = write_tiny_model("llama", tmp_path / "llama", scale=1.5, tokenizer=False, **WIDE_MLP)
    requests = prompts([MAX_TOKENS - NEW_TOKENS] * ROWS)
    settings = {"kernel_inject": True, "dtype": "float16", "max_tokens": MAX_TOKENS, "max_batch_size": ROWS}
    given = Case(
        str(directory), {**settings}, [(requests, {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS})]
    )
    [case] = run_ranks(tp, answer, [given], device="cuda", timeout_s=420)
    ties = count_ties(directory, "float16", tokens(case.answers[0]), requests)
    assert ties <= MOST_TIES * ROWS * NEW_TOKENS
