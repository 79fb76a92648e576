import torch

from raydsinfer.engines.verification.reference import NUM_BEST, reference_of


def test_the_best_of_those_that_may_come():
    logits = torch.zeros(2, 40)
    logits[0, 7], logits[0, 9], logits[1, 3] = 5.0, 4.0, 3.0
    found = reference_of([9, 3], logits, None, dtype="float32", forbidden=[{7}, set()])
    assert found.token_ids == (9, 3)
    assert found.steps[0].best_ids[0] == 9, "7 is forbidden"
    assert found.steps[1].best_ids[0] == 3
    assert len(found.steps[0].best_ids) == NUM_BEST
    # The probability is that among all tokens, the forbidden one included.
    assert abs(found.steps[0].logprob(9) - float(logits[0].log_softmax(-1)[9])) < 1e-6
    assert found.steps[0].logprob(7) is None


def test_forbidden_tokens_are_never_among_the_best():
    found = reference_of([1], torch.zeros(1, 3), None, dtype="float32", forbidden=[{0, 2}])
    assert found.steps[0].best_ids == (1,)


def test_rounding_is_measured_and_never_nothing():
    exact = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)) * 10
    none = reference_of([0], exact, None, dtype="float32", forbidden=[()]).steps[0].rounding
    assert 0 < none < 1e-3
    rounded = (1.1 * exact).to(torch.bfloat16)
    measured = reference_of([0], exact, rounded, dtype="bfloat16", forbidden=[()]).steps[0].rounding
    error = rounded.float().log_softmax(-1) - exact.log_softmax(-1)
    assert abs(measured - float(error.square().mean().sqrt())) < 1e-4
    assert measured > 1
