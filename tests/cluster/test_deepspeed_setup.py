"""What goes wrong when DeepSpeed starts is said in few lines, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.deepspeed_setup import deepspeed_errors
from raydsinfer.errors import EngineError, WorkerGroupError
from tests.engine_cases import fail_to_load
from tests.models import write_tiny_model
from tests.ranks import run_ranks

# Says what it is as the real one would, and compiles nothing.
COMPILER = """#!/bin/sh
case "$*" in
  *.cpp*) for line in $(seq 40); do echo "kernels.cpp:$line: error: no type named half" >&2; done; exit 1;;
  *) exec g++ "$@";;
esac
"""


def try_to_build(context: RankContext) -> None:
    from raydsinfer.engines.deepspeed_setup import build_kernels

    build_kernels()


@pytest.mark.slow
def test_without_cuda_the_kernels_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkerGroupError, match=r"(?s)building DeepSpeed's kernels: .*nvcc.*or use kernel_inject=False"):
        run_on_ranks(1, try_to_build)  # a new interpreter, which finds no CUDA when it imports DeepSpeed


@pytest.mark.slow
def test_a_compiler_that_fails_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.cpp_extension import load

    compiler, source = tmp_path / "g++", tmp_path / "kernels.cpp"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    source.write_text("int answer();")
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(EngineError, match="building it") as caught, deepspeed_errors("building it", "Do without."):
        load("broken", [str(source)], build_directory=str(tmp_path), verbose=False)
    lines = str(caught.value).splitlines()
    assert "Error building extension 'broken'" in lines[0]
    assert len(lines[0]) < 400, "the command line is cut"
    assert lines[1].strip() == "…"
    assert lines[-2].strip() == "kernels.cpp:40: error: no type named half"
    assert lines[-1].strip() == "ninja: build stopped: subcommand failed. Do without."
    assert len(lines) == 14


@pytest.mark.slow
def test_a_model_that_autotp_does_not_know(tmp_path: Path) -> None:
    sizes = {"emb_dim": 64, "n_layers": 2, "n_heads": 4}
    model = write_tiny_model("xlm", tmp_path / "xlm", **sizes)
    [text, kernels] = run_ranks(2, fail_to_load, [(str(model), {}), (str(model), {"kernel_inject": True})])
    assert text.startswith("UnsupportedError: xlm on 2 ranks")
    assert "does not know which of its layers to slice" in text
    assert "kernel_inject=True for xlm" in kernels
    assert "adapters exist for: opt" in kernels
