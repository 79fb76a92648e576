from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.planning.copies import copies_bytes
from raydsinfer.planning.model import Stored
from tests.unit.planning.facts import model

GB = 10**9
CUT, LAYERS = {"save_mp_checkpoint_path": "/nvme/cut"}, {"reshard_checkpoint_path": "/nvme/layers"}


@pytest.mark.parametrize(("settings", "copies"), [({}, 0), (CUT, 1), (LAYERS, 1), ({**CUT, **LAYERS}, 2)])
def test_a_copy_is_as_large_as_the_model(settings: dict[str, Any], copies: int) -> None:
    assert copies_bytes(model(), EngineConfig(**settings), 2, kernels=False) == copies * 16 * GB
    assert copies_bytes(model(stored=False), EngineConfig(**settings), 2, kernels=False) == 0


@pytest.mark.parametrize(
    ("num_ranks", "gb_of_four_files"),
    # A rank has 25.2 GB of OPT-13b, 12.6, 6.3 or 3.2, in files of 5 GB.
    [(1, 20), (2, 20), (4, 20), (8, 12.6)],
)
def test_files_for_kernels_are_put_together_first(num_ranks: int, gb_of_four_files: float) -> None:
    facts = model("opt")
    num_bytes = 2 * facts.num_parameters
    facts = replace(facts, stored=Stored(form="safetensors", num_files=1, num_bytes=num_bytes))
    found = copies_bytes(facts, EngineConfig(**CUT), num_ranks, kernels=True)
    assert found - num_bytes == pytest.approx(gb_of_four_files * GB, rel=0.01)
    both = copies_bytes(facts, EngineConfig(**CUT, **LAYERS), num_ranks, kernels=True)
    assert both == found + num_bytes


def test_shared_heads_are_repeated_for_kernels() -> None:
    facts = model("llama")
    embeddings, repeated = 2 * 2 * 128256 * 4096, 2 * 32 * 2 * 4096 * (4096 - 1024)
    num_bytes = 2 * facts.num_parameters
    facts = replace(facts, stored=Stored(form="safetensors", num_files=1, num_bytes=num_bytes))
    rank = (num_bytes - embeddings + repeated) / 8
    found = copies_bytes(facts, EngineConfig(**CUT), 8, kernels=True)
    assert found == pytest.approx(num_bytes + repeated + embeddings + 3 * rank, rel=0.001)
