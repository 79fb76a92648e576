from __future__ import annotations

from typing import Any

import pytest

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.settings import (
    NUM_TIED,
    Passes,
    fractions_of,
    integers_of,
    needs_static,
    passes_of,
    union,
)


def needed(**settings: Any) -> Passes:
    generation = GenerationConfig(**settings)
    whole = integers_of(generation, num_prompt=3, seed=0, vocab_size=1000)
    return passes_of(generation, whole, fractions_of(generation))


def test_only_beams_need_a_static_batch() -> None:
    assert "num_beams=4" in needs_static(GenerationConfig(num_beams=4, num_return_sequences=2))
    everything = GenerationConfig(
        do_sample=True, min_new_tokens=2, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, typical_p=0.5, seed=1,
        repetition_penalty=2.0, no_repeat_ngram_size=2, num_return_sequences=3, stop_strings="x", return_logprobs=True,
    )  # fmt: skip
    assert needs_static(everything) == ""


def test_a_greedy_row_needs_nothing_of_what_concerns_sampling() -> None:
    assert needed() == Passes()
    assert needed(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, typical_p=0.5) == Passes()


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"min_new_tokens": 4}, Passes(min_new_tokens=True)),
        ({"return_logprobs": True}, Passes(logprobs=True)),
        ({"repetition_penalty": 1.2}, Passes(penalty=True)),
        ({"no_repeat_ngram_size": 3}, Passes(ngram_size=3)),
        ({"do_sample": True}, Passes(num_candidates=50 + NUM_TIED)),
        ({"do_sample": True, "top_k": 0}, Passes(num_candidates=1000)),
        ({"do_sample": True, "top_k": 2000, "top_p": 0.9}, Passes(num_candidates=1000, top_p=True)),
        ({"do_sample": True, "top_k": 1, "min_p": 0.0}, Passes(num_candidates=1 + NUM_TIED)),
        ({"do_sample": True, "top_k": 1, "min_p": 0.2}, Passes(num_candidates=1 + NUM_TIED, min_p=True)),
        ({"do_sample": True, "top_k": 1, "typical_p": 0.2}, Passes(num_candidates=1 + NUM_TIED, typical_p=True)),
    ],
)
def test_what_a_row_needs(settings: dict[str, Any], passes: Passes) -> None:
    assert needed(**settings) == passes


def test_what_rows_need_together() -> None:
    assert union([]) == Passes()
    rows = [Passes(ngram_size=3), Passes(num_candidates=9, top_p=True), Passes(ngram_size=2, logprobs=True)]
    assert union(rows) == Passes(logprobs=True, ngram_size=3, num_candidates=9, top_p=True)


def test_plain_greedy_rows_may_have_to_wait_for_their_end() -> None:
    assert Passes(min_new_tokens=True).plain_greedy
    assert not Passes(logprobs=True).plain_greedy
    assert not Passes(min_new_tokens=True, num_candidates=3).plain_greedy


def test_whole_numbers_of_a_row() -> None:
    generation = GenerationConfig(do_sample=True, top_k=0, min_new_tokens=4, no_repeat_ngram_size=2)
    whole = integers_of(generation, num_prompt=3, seed=2**64 - 1, vocab_size=10)
    assert (whole.seed, whole.num_prompt, whole.first_end, whole.do_sample) == (-1, 3, 7, 1)
    assert (whole.top_k, whole.num_candidates, whole.ngram_size) == (10, 10, 2)
