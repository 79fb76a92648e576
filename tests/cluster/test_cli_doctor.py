"""`raydsinfer doctor` as a user runs it, on the machine that runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import ray
import torch

from tests.commands import ROOT, TIMEOUT_S


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_the_machine_that_runs_the_tests(tmp_path: Path) -> None:
    ray.shutdown()  # another module's: its processes come and go
    before = descendants()
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "ops"), "HF_HUB_OFFLINE": "1"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "raydsinfer.cli.main", "doctor", "--json", "--debug", "--online"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
    )
    told = json.loads(done.stdout)
    verdicts = {verdict["subject"]: verdict for verdict in told["verdicts"]}
    talking = "NCCL" if torch.cuda.device_count() > 1 else "gloo"
    well = {name: verdicts[name]["level"] for name in ("Python", "torch", talking, "local Ray", "packages")}
    assert set(well.values()) == {"green"}, (well, done.stderr)
    assert {"driver", "GPU"} & set(verdicts)
    assert "DeepSpeed" not in verdicts, "its builders did not answer"
    assert "be built" in verdicts["its other ops"]["found"]
    assert "OfflineModeIsEnabled" in verdicts["hub"]["found"]
    assert done.returncode == (1 if told["level"] == "red" else 0)
    assert list(tmp_path.iterdir()) == []  # looking makes no directory
    assert descendants() <= before
