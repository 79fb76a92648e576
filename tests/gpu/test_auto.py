"""`engine="auto"` on a GPU: kernels in place of static AutoTP, and no kernels where they cannot be built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.train import ScalingConfig

from raydsinfer import EngineConfig, WorkerGroup
from raydsinfer.engines.base import EngineSpec
from tests.gpu.shapes import KERNEL_SHAPES
from tests.models import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model("opt", tmp_path_factory.mktemp("auto") / "opt", **KERNEL_SHAPES["opt"])


@pytest.mark.usefixtures("cluster")
def test_static_batches_take_the_kernels(model: Path) -> None:
    config = EngineConfig(engine="auto", batching="static", max_tokens=128, max_batch_size=4)
    spec = EngineSpec(model=str(model), config=config)
    with WorkerGroup.create(spec, ScalingConfig(num_workers=1, use_gpu=True)) as group:
        assert group.load_report.mode == "kernel_inject"
        assert group.load_report.note.startswith("engine='auto' took kernel injection: on GPUs static batches")


def test_a_node_without_a_compiler_does_without_the_kernels(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("one", "two")))
    arguments = [str(model), str(prompts), str(tmp_path / "out.jsonl"), "--engine", "auto", "--max-tokens", "128"]
    arguments += ["--batching", "static"]
    arguments += ["--num-gpus-per-worker-group", "1", "--address", "local", "--max-new-tokens", "4"]
    # Nothing is built in that directory, and there is no nvcc to build it with.
    nowhere = {"CUDA_HOME": str(tmp_path / "cuda"), "TORCH_EXTENSIONS_DIR": str(tmp_path / "built")}
    command = [sys.executable, "-m", "raydsinfer.cli.main", "generate", *arguments]
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kernel injection: not possible: DeepSpeed's kernels cannot be built: MissingCUDAException" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows] == ["", ""]
