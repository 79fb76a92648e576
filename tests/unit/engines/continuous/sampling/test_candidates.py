from __future__ import annotations

import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

from raydsinfer.engines.continuous.sampling.candidates import (
    MAX_VOCAB_SIZE,
    among_top_k,
    draw,
    keep_min_p,
    keep_top_p,
    keep_typical,
    most_likely,
    weigh,
)

VOCAB = 400
NOTHING = torch.zeros(0, dtype=torch.long)  # transformers' warpers ignore the tokens so far


def random_scores(seed: int, scale: float = 3.0, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def everything(rows: int) -> torch.Tensor:
    return torch.full((rows,), VOCAB)


def assert_same(weights: torch.Tensor, ids: torch.Tensor, theirs: torch.Tensor) -> None:
    """The same candidates with the same probabilities; `theirs` are scores in the vocabulary's order."""
    ours = torch.zeros(theirs.shape, dtype=torch.float64).scatter_(1, ids, weights.double())
    assert torch.equal(ours > 0, theirs > -torch.inf)
    torch.testing.assert_close(ours / ours.sum(1, keepdim=True), theirs.double().softmax(1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 50, VOCAB])
def test_top_k_is_transformers(seed: int, k: int) -> None:
    scores = random_scores(seed).half().float()  # with ties
    values, ids = most_likely(scores, min(k + 64, VOCAB))
    kept = among_top_k(values, torch.full((4,), k), everything(4))
    assert_same(weigh(values, kept), ids, TopKLogitsWarper(k)(NOTHING, scores))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parameter", [0.01, 0.3, 0.9, 0.999])
def test_the_other_warpers_are_transformers(seed: int, parameter: float) -> None:
    scores = random_scores(seed)
    values, ids = most_likely(scores, VOCAB)
    weights = weigh(values, torch.ones_like(values, dtype=torch.bool))
    each = torch.full((4,), parameter, dtype=torch.float64)
    assert_same(keep_top_p(weights, each), ids, TopPLogitsWarper(parameter)(NOTHING, scores))
    assert_same(keep_min_p(weights, each), ids, MinPLogitsWarper(parameter)(NOTHING, scores))
    assert_same(keep_typical(values, weights, each), ids, TypicalLogitsWarper(parameter)(NOTHING, scores))


def test_neutral_settings_change_nothing() -> None:
    values, _ = most_likely(random_scores(0), VOCAB)
    weights = weigh(values, torch.ones_like(values, dtype=torch.bool))
    assert (weights > 0).all()
    one = torch.ones(4, dtype=torch.float64)
    assert torch.equal(keep_top_p(weights, one), weights)
    assert torch.equal(keep_min_p(weights, one * 0), weights)
    assert torch.equal(keep_typical(values, weights, one), weights)


def test_the_short_way_finds_what_sorting_finds() -> None:
    scores = random_scores(1).half().float().round()  # few values, so ties everywhere
    scores[1] = 0.0
    scores[1, ::2] = -0.0
    scores[2, 5:] = -torch.inf
    values, ids = most_likely(scores, VOCAB)
    for number in (1, 7, VOCAB // 4 - 1):
        first, first_ids = most_likely(scores, number)
        assert torch.equal(first, values[:, :number])
        assert torch.equal(first_ids, ids[:, :number])
    assert torch.equal(ids[:, 0], scores.argmax(1))


def test_ties_with_the_last_candidate_are_kept_as_far_as_a_row_looks() -> None:
    values = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]]).repeat(3, 1)
    kept = among_top_k(values, torch.tensor([2, 2, 1]), torch.tensor([5, 3, 5]))
    assert kept.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


def test_drawing_inverts_the_running_sum() -> None:
    weights = torch.tensor([[2, 0, 1, 1]]).repeat(6, 1)
    numbers = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(weights, numbers).tolist() == [0, 0, 2, 2, 3, 3]


def test_drawing_next_to_one_never_leaves_the_candidates() -> None:
    last = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    flat = weigh(torch.zeros(1, MAX_VOCAB_SIZE), torch.ones(1, MAX_VOCAB_SIZE, dtype=torch.bool))
    assert flat.sum() > 0  # the largest sum there can be does not wrap around
    assert draw(flat, last).item() == MAX_VOCAB_SIZE - 1
    assert draw(torch.tensor([[2**43, 0, 0]]), last).item() == 0
    assert draw(torch.tensor([[0, 0, 0]]), last).item() == 0


def test_rows_that_hold_no_number_draw_the_first_candidate() -> None:
    values = torch.tensor([[-torch.inf] * 3, [torch.nan] * 3, [torch.inf, 1.0, 0.0]])
    weights = weigh(values, torch.ones(3, 3, dtype=torch.bool))
    half = torch.full((3,), 0.5, dtype=torch.float64)
    for kept in (weights, keep_top_p(weights, half), keep_min_p(weights, half), keep_typical(values, weights, half)):
        assert draw(kept, half).tolist() == [0, 0, 0]
