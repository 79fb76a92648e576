"""Everything that a command line of `bench throughput` can get wrong before an engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydsinfer.cli.main import app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu"], "either a shape or --model"),
        (["--shape", "opt-tiny", "--model", "/x", "--device", "cpu"], "either a shape or --model"),
        (["--model", "/x", "--num-layers", "2", "--device", "cpu"], "to go with --shape"),
        (["--model", "/nowhere/at-all", "--device", "cpu"], "/nowhere/at-all"),
        (["--shape", "opt-67b", "--device", "cpu"], "one of opt-tiny"),
        (["--shape", "opt-tiny", "--device", "cuda", "--tp", "99"], "at most the GPUs here"),
        (["--shape", "opt-tiny", "--device", "tpu"], "expected cuda or cpu"),
        (["--shape", "opt-tiny", "--device", "cpu", "--engines", "static,vllm"], "of continuous, static"),
        (["--shape", "opt-tiny", "--device", "cpu", "--workloads", "uniform,mixed:0"], "mixed:REQUESTS"),
        (["--shape", "opt-tiny", "--device", "cpu", "--workloads", "uniform:3"], "workloads='uniform:3'"),
        (["--shape", "opt-tiny", "--device", "cpu", "--batches", "1,x"], "numbers above 0"),
        (["--shape", "opt-tiny", "--device", "cpu", "--set", "max_num_seqs=4"], "It is called max_running here"),
        (["--shape", "opt-tiny", "--device", "cpu", "--set", "cuda_graphs"], "NAME=VALUE"),
        (["--shape", "opt-tiny", "--device", "cpu", "--set", "kv_page_size=0"], "kv_page_size=0 cannot be used"),
        (["--shape", "opt-tiny", "--device", "cpu", "--attention", "magic"], "attention='magic'"),
        (["--shape", "opt-tiny", "--device", "cpu", "--plot", "figures.txt"], "ends in .png, .svg, .pdf"),
    ],
)
def test_mistakes_are_named_before_anything_starts(words: list[str], said: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["bench", "throughput", *words, "--directory", str(tmp_path / "models")])
    assert said in " ".join(ran.output.split())
    assert ran.exit_code == 2
    assert not (tmp_path / "models").exists()
