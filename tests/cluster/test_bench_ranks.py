"""Ranks that are forked from a process that has imported what they need are like new ones."""

from __future__ import annotations

import os

import pytest
import torch

from raydsinfer.engines.base import RankContext
from tests.ranks import answers_of_ranks

LEFT: list[int] = []


def tell(context: RankContext) -> tuple[str | None, str | None, list[int], float, int]:
    """What this rank finds in its process, after which it leaves something there."""
    found = (os.environ.get("TOLD"), os.environ.get("DS_ACCELERATOR"), list(LEFT), torch.rand(1).item(), os.getpid())
    LEFT.append(context.world_rank)
    os.environ["DS_ACCELERATOR"] = "cpu"
    return found


def test_forked_ranks_have_the_environment_of_now_and_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    pids, chances = set(), set()
    for told in ("first", "second"):
        monkeypatch.setenv("TOLD", told)
        for environment, accelerator, left, chance, pid in answers_of_ranks(2, tell):
            assert (environment, accelerator, left) == (told, None, [])
            pids.add(pid)
            chances.add(chance)
    assert len(pids) == 4
    assert len(chances) == 1, "torch begins with the same seed"
    assert os.getpid() not in pids
