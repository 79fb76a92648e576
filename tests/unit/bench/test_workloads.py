from __future__ import annotations

import hashlib
import json

import pytest

from raydsinfer.bench.workloads import Workload, mixed, shared_prefix, uniform


def digest(workload: Workload) -> str:
    plain = [[list(request.prompt), request.new_tokens] for request in workload.requests]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


# Figures and digests of the program that the peers were measured with: other token ids or lengths would make the
# figures of engines incomparable.
def test_mixed_is_the_published_one() -> None:
    workload = mixed()
    assert (len(workload.requests), workload.num_prompt_tokens, workload.num_new_tokens) == (512, 60_239, 53_396)
    first, last = workload.requests[0], workload.requests[-1]
    assert (len(first.prompt), first.new_tokens, first.prompt[:3]) == (126, 310, (42531, 31849, 25559))
    assert (len(last.prompt), last.new_tokens, last.prompt[-2:]) == (64, 115, (38863, 28231))
    assert workload.longest == 660
    assert digest(workload) == "b99fd947447ca71a771f61b892fcb4ea26119f84a26206be071997f6998315f8"


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (32, "e637cfc67bc10c5cce5144ab2e281032a19846a1e1087039aca117fc5e9b463c"),
        (256, "2e0e756cd5599d7b1ad20f1ca54b3898feb611b87a06625e5ea80d2c31a53e68"),
    ],
)
def test_uniform_is_the_published_one(batch: int, expected: str) -> None:
    workload = uniform(batch)
    assert {(len(request.prompt), request.new_tokens) for request in workload.requests} == {(128, 64)}
    assert digest(workload) == expected


def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    workload = shared_prefix(20, 100)
    assert {request.prompt[:100] for request in workload.requests} == {workload.requests[0].prompt[:100]}
    assert len({request.prompt[100:] for request in workload.requests}) == 20
    assert {len(request.prompt) for request in workload.requests} == {132}
    assert workload.num_shared == 100


def test_a_small_vocabulary_gets_small_tokens() -> None:
    for workload in (uniform(4, vocab_size=512), mixed(4, vocab_size=512), uniform(4, vocab_size=512).shifted(10**6)):
        tokens = {token for request in workload.requests for token in request.prompt}
        assert min(tokens) >= 5
        assert max(tokens) < 512


def test_shifted_prompts_are_others_of_the_same_lengths() -> None:
    workload = shared_prefix(3, 10)
    other = workload.shifted(1)
    assert [len(r.prompt) for r in other.requests] == [len(r.prompt) for r in workload.requests]
    assert all(
        old != new
        for a, b in zip(workload.requests, other.requests, strict=True)
        for old, new in zip(a.prompt, b.prompt, strict=True)
    )
    assert len({request.prompt[:10] for request in other.requests}) == 1
    assert workload.shifted(0) == workload
