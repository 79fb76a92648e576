"""However weights come into a gang, every rank ends up with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from raydsinfer.checkpoints.resharding.reshard import reshard_files
from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, RankContext
from raydsinfer.engines.resharding import checked_settings
from tests.models import write_tiny_model
from tests.ranks import answers_of_ranks, forks

# Sizes that three ranks share unevenly, but with a key-value head for each.
GROUPED = {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "opt": {},
    "gptj": {},
    "gpt_neox": {},
    "gpt_neo": {},
    "llama": GROUPED,
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "mistral": {**GROUPED, "tie_word_embeddings": False},
    "bloom": {"hidden_size": 96, "n_head": 12},
}


def digests(context: RankContext, cases: list[tuple[str, dict[str, Any]]]) -> list[dict[str, str]]:
    """On each rank: name → digest of each parameter, for each way of loading."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    found = []
    for model, config in cases:
        settings = EngineConfig(dtype="float32", max_tokens=64, verify="off", **config)
        engine = DeepSpeedEngine(EngineSpec(model=model, config=settings), context)
        engine.load()
        parameters = engine.model.named_parameters(remove_duplicate=False)
        found.append({name: hashlib.sha256(p.contiguous().numpy().tobytes()).hexdigest() for name, p in parameters})
        engine.close()
    return found


def _rules(directory: Path, tp_size: int) -> dict[str, tuple[Slice, ...]]:
    from raydsinfer.engines.deepspeed_rules import slice_rules

    return slice_rules(directory, tp_size)


def rules_of(directories: Iterable[Path], tp_size: int) -> list[dict[str, tuple[Slice, ...]]]:
    """Each in a process of its own, as DeepSpeed needs it."""
    with forks().Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(_rules, [(directory, tp_size) for directory in directories], chunksize=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("tp_size", "families"), [(1, ["llama"]), (2, FAMILIES), (3, ["opt", "gpt_neox", "llama", "bloom"])]
)
def test_resharded_weights_are_the_same_bits_on_every_rank(
    tmp_path: Path, tp_size: int, families: Iterable[str]
) -> None:
    whole = [write_tiny_model(family, tmp_path / family, **FAMILIES[family]) for family in families]
    cases: list[tuple[str, dict[str, Any]]] = []
    settings = checked_settings("ranks", tp_size, None, "40KB")
    for directory, rules in zip(whole, rules_of(whole, tp_size), strict=True):
        cut = tmp_path / f"{directory.name}-cut"
        reshard_files(directory, cut, settings, origin={}, rules=lambda rules=rules: rules)
        # By slice, by DeepSpeed from the whole model in memory, and as cut beforehand.
        cases += [(str(directory), {}), (str(directory), {"use_meta_tensor": False}), (str(cut), {})]
    for rank, found in enumerate(answers_of_ranks(tp_size, digests, cases, timeout_s=200)):
        for at in range(0, len(cases), 3):
            by_slice, by_deepspeed, cut_before = found[at : at + 3]
            assert by_slice == by_deepspeed, (rank, cases[at])
            assert by_slice == cut_before, (rank, cases[at])


@pytest.mark.slow
def test_resharded_weights_are_the_same_bits_in_fused_layers(tmp_path: Path) -> None:
    whole, cut = write_tiny_model("opt", tmp_path / "opt"), tmp_path / "cut"
    [rules] = rules_of([whole], 2)
    reshard_files(whole, cut, checked_settings("ranks", 2, None, "40KB"), origin={}, rules=lambda: rules)
    cases: list[tuple[Path, dict[str, Any]]] = [(whole, {}), (whole, {"use_meta_tensor": False}), (cut, {})]
    # Kernel injection takes a process for itself.
    found = [answers_of_ranks(2, digests, [(str(path), {"kernel_inject": True, **form})]) for path, form in cases]
    assert found[0] == found[1]
    assert found[0] == found[2]


@pytest.mark.slow
def test_the_layers_layout_loads_to_the_same_bits(tmp_path: Path) -> None:
    whole = write_tiny_model("llama", tmp_path / "llama", **GROUPED)
    layers = tmp_path / "layers"
    reshard_files(whole, layers, checked_settings("layers", None, None, "1MB"), origin={}, rules=dict)
    pickled = write_tiny_model("llama", tmp_path / "pickled", safe=False, **GROUPED)
    cases: list[tuple[str, dict[str, Any]]] = [(str(path), {}) for path in (whole, layers, pickled)]
    for first, *others in answers_of_ranks(2, digests, cases):
        assert all(other == first for other in others)
