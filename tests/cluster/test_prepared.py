"""What ranks load from, cut by DeepSpeed's own rules: once, however many processes ask at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.cli.main import app
from raydsinfer.engines.slice_process import slice_rules_in_process
from raydsinfer.errors import EngineError, UnsupportedError
from tests.models import write_tiny_model

ROOT = Path(__file__).parents[2]

# Without `if __name__ == "__main__"`, as scripts are; and within what could be a rank of a gang.
SCRIPT = """
import sys
from raydsinfer.config import EngineConfig
from raydsinfer.engines.prepared import prepared_directory
from pathlib import Path
config = EngineConfig(save_mp_checkpoint_path=sys.argv[2])
print(prepared_directory(Path(sys.argv[1]), config, 2))
assert "deepspeed" not in sys.modules
"""


@pytest.mark.slow
def test_all_ranks_ask_and_one_cuts(tmp_path: Path) -> None:
    model = write_tiny_model("llama", tmp_path / "model", num_attention_heads=4, num_key_value_heads=2)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    target = tmp_path / "ranks"
    gang = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(model), str(target)],
            env={**os.environ, **gang, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [process.communicate()[0].split() for process in ranks] == [[str(target)]] * 2
    description = describe(target)
    assert description.tp_size == 2
    name = "model.layers.1.mlp.down_proj.weight"
    with TensorReader(describe(model)) as whole, TensorReader(description, rank=1, tp_size=2) as reader:
        (part,) = reader.parts(name, Slice(1, ((128, 256),)))
        assert torch.equal(part, whole.read(name)[:, 128:])


def test_the_command_cuts_for_ranks(tmp_path: Path) -> None:
    model = write_tiny_model("opt", tmp_path / "model", safe=False)
    words = ["reshard", str(model), str(tmp_path / "ranks"), "--layout", "ranks", "--tp", "3", "--dtype", "bfloat16"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "ranks, for 3" in result.stderr
    uneven = describe(tmp_path / "ranks").tensors["model.decoder.layers.0.self_attn.q_proj.weight"]
    assert [piece.tensor.shape for piece in uneven.pieces] == [(32, 64), (16, 64), (16, 64)]
    assert uneven.dtype == "bfloat16"


def test_what_cannot_be_cut_is_said_as_if_it_were_here(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="gpt2"):
        slice_rules_in_process(write_tiny_model("gpt2", tmp_path / "gpt2", tokenizer=False), 2)


def test_a_process_that_ends_badly_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deepspeed.py").write_text("raise SystemExit('no DeepSpeed for you')")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = write_tiny_model("opt", tmp_path / "model", tokenizer=False)
    with pytest.raises(EngineError, match=r"ended with code 1: .*no DeepSpeed for you"):
        slice_rules_in_process(model, 2)
