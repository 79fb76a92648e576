from __future__ import annotations

import pytest
import torch
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from raydsinfer.engines.continuous.sampling.logits import (
    forbid_repeated_ngrams,
    forbid_tokens_,
    log_probabilities,
    penalise_repetition,
)

VOCAB = 11
LENGTHS = [0, 1, 2, 3, 7, 12, 20]


def random_rows(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, histories with something else behind their ends, and lengths. Token 12 has no score."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(LENGTHS), VOCAB, generator=generator) * 5
    history = torch.randint(0, VOCAB + 2, (len(LENGTHS), 24), generator=generator)
    return scores, history, torch.tensor(LENGTHS)


@pytest.mark.parametrize("seed", range(5))
def test_the_penalty_is_transformers(seed: int) -> None:
    scores, history, lengths = random_rows(seed)
    penalty = torch.tensor([1.3, 1.0, 0.5, 2.0, 100.0, 0.01, 1.1], dtype=torch.float64)
    ours = penalise_repetition(scores, history, lengths, penalty)
    for row, length in enumerate(LENGTHS):
        theirs = RepetitionPenaltyLogitsProcessor(float(penalty[row]))
        expected = theirs(history[row : row + 1, :length], scores[row : row + 1].clone()) if length else scores[[row]]
        assert torch.equal(ours[row], expected[0])
    assert torch.equal(ours[1], scores[1])


@pytest.mark.parametrize("seed", range(5))
def test_ngrams_are_transformers(seed: int) -> None:
    scores, history, lengths = random_rows(seed)
    history %= 3  # so that something repeats
    for sizes in ([1, 1, 1, 1, 1, 1, 1], [2, 0, 2, 2, 3, 4, 1], [1, 2, 3, 4, 30, 2, 3]):
        ours = forbid_repeated_ngrams(scores, history, lengths, torch.tensor(sizes), max(sizes))
        for row, (length, size) in enumerate(zip(LENGTHS, sizes, strict=True)):
            before, expected = history[row : row + 1, :length], scores[row : row + 1]
            if size and length:
                expected = NoRepeatNGramLogitsProcessor(size)(before, expected)
            assert torch.equal(ours[row], expected[0])


def test_an_ngram_that_starts_in_the_prompt_does_not_repeat() -> None:
    history = torch.tensor([[4, 5, 6, 4, 5, 0, 0]])
    banned = forbid_repeated_ngrams(torch.zeros(1, VOCAB), history, torch.tensor([5]), torch.tensor([3]), 3)
    assert banned.isinf().nonzero().tolist() == [[0, 6]]


def test_forbidding_touches_the_named_tokens_of_the_named_rows() -> None:
    scores = torch.ones(3, 5, dtype=torch.float16)
    given = forbid_tokens_(scores, torch.tensor([1, 4]), torch.tensor([True, False, True]))
    assert given is scores
    assert scores.isinf().int().tolist() == [[0, 1, 0, 0, 1], [0] * 5, [0, 1, 0, 0, 1]]


def test_log_probabilities_are_computed_in_float32() -> None:
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    tokens = torch.tensor([0, 7, 499, 3])
    found = log_probabilities(logits, tokens)
    expected = logits.double().log_softmax(1).gather(1, tokens[:, None]).squeeze(1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
