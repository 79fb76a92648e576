from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.checkpoints.resharding.reshard import reshard_files
from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.cli.generate import check_files
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.resharding import checked_settings
from raydsinfer.errors import CheckpointError, CorruptCheckpointError
from tests.models import write_tiny_model


def spec(model: Path) -> EngineSpec:
    return EngineSpec(model=str(model), config=EngineConfig())


def test_weights_that_were_cut_for_other_ranks_are_refused_before_a_gang_starts(tmp_path: Path) -> None:
    model = write_tiny_model("llama", tmp_path / "model", tokenizer=False)
    rules = dict.fromkeys(describe(model).tensors, (WHOLE, WHOLE))
    settings = checked_settings("ranks", 2, None, "1MB")
    reshard_files(model, tmp_path / "cut", settings, origin={}, rules=lambda: rules)
    check_files(spec(model), 3)
    check_files(spec(tmp_path / "cut"), 2)
    with pytest.raises(CheckpointError, match="cut for tensor-parallel size 2, not 3"):
        check_files(spec(tmp_path / "cut"), 3)


def test_a_truncated_file_is_named_before_a_gang_starts(tmp_path: Path) -> None:
    model = write_tiny_model("llama", tmp_path / "model", tokenizer=False)
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors"):
        check_files(spec(model), 1)


def test_a_model_elsewhere_is_looked_at_by_its_ranks() -> None:
    check_files(spec(Path("owner/name")), 1)
