"""A gang of a real model: how far loading has come is told, and weights are cut once where the settings say so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ray.train import ScalingConfig

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch
from raydsinfer.groups.worker_group import WorkerGroup
from tests.models import plain_greedy, prompts, write_tiny_model

NEW_TOKENS = 8


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_weights_are_cut_once_and_their_loading_is_told(tmp_path: Path, quick: GangConfig) -> None:
    model = write_tiny_model("opt", tmp_path / "opt")
    cut, told = tmp_path / "cut", []
    spec = EngineSpec(
        model=str(model), config=EngineConfig(max_tokens=64, save_mp_checkpoint_path=str(cut), verify="off")
    )
    pair = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
    requests = prompts([9, 4])
    with WorkerGroup.create(spec, pair, gang_config=quick, on_progress=told.append) as group:
        report = group.load_report
        settings = GenerationConfig(max_new_tokens=NEW_TOKENS)
        answers = group.run("generate", GenerateBatch(prompts=requests, generation=settings))
    assert describe(cut).tp_size == 2
    assert [list(answer[0].token_ids) for answer in answers] == plain_greedy(model, requests, NEW_TOKENS)
    # A gang of one node meets where nobody else can come.
    assert any(line.startswith("rendezvous at 127.0.0.1:") for line in told)
    done = [line for line in told if line.startswith("weights: ")]
    assert re.fullmatch(r"weights: rank 0 [\d.]+ MB of [\d.]+ MB.*; rank 1 [\d.]+ MB of [\d.]+ MB.*", done[-1])
    filled = report.filled
    assert filled.bytes_done == filled.bytes_total == report.parameter_bytes
