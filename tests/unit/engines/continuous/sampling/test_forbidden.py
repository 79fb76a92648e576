from __future__ import annotations

import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.forbidden import Forbidden
from raydsinfer.engines.continuous.sampling.settings import Integers, Passes, integers_of


def settings(*min_new_tokens: int) -> Integers[torch.Tensor]:
    """Rows with a prompt of four tokens."""
    rows = [
        integers_of(GenerationConfig(min_new_tokens=least), num_prompt=4, seed=0, vocab_size=6)
        for least in min_new_tokens
    ]
    return Integers(*(torch.tensor([getattr(row, name) for row in rows]) for name in Integers.__slots__))


def banned(forbidden: Forbidden, whole: Integers[torch.Tensor], positions: list[int]) -> list[list[int]]:
    scores = forbidden.apply_(torch.zeros(len(positions), 6), whole, torch.tensor(positions))
    return [row.isinf().nonzero().flatten().tolist() for row in scores]


def test_every_end_is_forbidden_until_there_are_enough_tokens() -> None:
    forbidden = Forbidden(vocab_size=6, device="cpu", eos_ids={5, 2}, suppress=(), begin_suppress=())
    assert banned(forbidden, settings(0, 2, 2, 2), [4, 4, 5, 6]) == [[], [2, 5], [2, 5], []]


def test_suppressed_always_and_at_the_beginning() -> None:
    forbidden = Forbidden(vocab_size=6, device="cpu", eos_ids={5}, suppress=[1], begin_suppress=[0, 1])
    assert banned(forbidden, settings(0, 0, 2), [4, 5, 4]) == [[0, 1], [1], [0, 1, 5]]


def test_whether_there_is_anything_to_do() -> None:
    only_ends = Forbidden(vocab_size=6, device="cpu", eos_ids={5}, suppress=(), begin_suppress=())
    assert only_ends.concerns(Passes(min_new_tokens=True))
    assert not only_ends.concerns(Passes(num_candidates=3))
    assert Forbidden(vocab_size=6, device="cpu", eos_ids=(), suppress=[1], begin_suppress=()).concerns(Passes())
    assert Forbidden(vocab_size=6, device="cpu", eos_ids=(), suppress=(), begin_suppress=[1]).concerns(Passes())


def test_tokens_without_a_score_are_left_out() -> None:
    forbidden = Forbidden(vocab_size=6, device="cpu", eos_ids={6, -1}, suppress=[100], begin_suppress=())
    assert banned(forbidden, settings(3), [4]) == [[]]
