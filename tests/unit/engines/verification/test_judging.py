"""What counts as right: equal to the reference but for rounding."""

import math

import pytest

from raydsinfer.engines.base import Completion
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.judging import judge, malformed
from raydsinfer.engines.verification.reference import Reference, ReferenceStep

CANARY = Canary(name="single", token_ids=(5, 6, 7), num_new_tokens=2)
STEPS = (
    ReferenceStep(best_ids=(3, 4, 9), best_logprobs=(-1.0, -1.05, -3.0), rounding=0.01),
    ReferenceStep(best_ids=(8, 3), best_logprobs=(-0.5, -2.0), rounding=0.01),
)
REFERENCE = Reference(token_ids=(3, 8), steps=STEPS)


def answer(tokens=(3, 8), logprobs=(-1.0, -0.5)):
    return Completion(tuple(tokens), "length", tuple(logprobs))


def problem(*ranks):
    return judge(CANARY, ranks, REFERENCE).problem


def test_equal_tokens_with_logprobs_within_rounding():
    result = judge(CANARY, [answer(logprobs=(-1.03, -0.5)), answer()], REFERENCE)
    assert (result.problem, result.num_ties) == ("", 0)
    assert result.largest_gap == pytest.approx(0.03)
    assert result.allowed_gap == pytest.approx(0.06)
    assert (result.num_prompt_tokens, result.num_new_tokens) == (3, 2)


def test_a_logprob_that_rounding_does_not_explain():
    assert problem(answer(logprobs=(-1.0, -0.6))) == (
        "token 1: the log-probability of 8 is off by 0.1, and rounding explains 0.06"
    )


def test_a_tie_is_right_and_what_follows_it_is_another_text():
    result = judge(CANARY, [answer((4, 77), (-1.05, -9.0))], REFERENCE)
    assert (result.problem, result.num_ties) == ("", 1)


def test_a_tie_that_the_reference_has_read_is_followed():
    read = Reference(token_ids=(4, 8), steps=STEPS)
    assert "token 1: 77 is not among" in judge(CANARY, [answer((4, 77), (-1.05, -0.5))], read).problem
    assert judge(CANARY, [answer((4, 8), (-1.05, -0.5))], read).problem == ""


def test_another_token():
    assert problem(answer((9, 8), (-3.0, -0.5))).startswith("token 0: 9 is less likely than 3 by 2 in log-probability")
    assert problem(answer((3, 50))).startswith("token 1: 50 is not among the 2 most likely ones")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_on_any_rank(value):
    assert "the logits of rank 1 are not numbers" in problem(answer(), answer(logprobs=(-1.0, value)))


def test_ranks_that_differ():
    assert problem(answer(), answer((3, 9))) == "token 1: rank 0 has 8 and rank 1 has 9"
    assert "rank 0 and rank 2 differ by 0.2" in problem(answer(), answer(), answer(logprobs=(-1.2, -0.5)))
    assert problem(answer(), answer(logprobs=(-1.01, -0.5))) == ""


def test_too_few_tokens():
    assert malformed(CANARY, [answer((3,), (-1.0,))]) == "rank 0 gave 1 tokens instead of 2"
    assert malformed(CANARY, [answer(), answer(logprobs=())]).startswith("rank 1 gave")
