"""Each example, run as its first lines say, on the echo engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("nothing_left")


def run(name: str, *words: str, stdin: str = "") -> str:
    # The cluster of the tests: an example would start its own.
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *words, "--engine", "echo"],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opt66b_batch() -> None:
    lines = run("opt66b_batch.py").splitlines()
    answered = sorted(int(line.split()[1].rstrip(":")) for line in lines if line.startswith("Story"))
    assert answered == list(range(64))


def test_parquet_to_parquet(tmp_path: Path) -> None:
    prompts = pa.table({"id": list(range(10)), "prompt": [f"p{i}" for i in range(9)] + [""], "other": [0.5] * 10})
    pq.write_table(prompts, tmp_path / "prompts.parquet")
    said = run("parquet_to_parquet.py", "any", f"{tmp_path}/prompts.parquet", f"{tmp_path}/done", "--gangs", "2")
    assert "10 rows, 1 of them with an error" in said
    rows = sorted(pq.read_table(tmp_path / "done").to_pylist(), key=lambda row: row["id"])
    assert [row["output"] for row in rows] == [row["prompt"] for row in rows]
    assert "other" not in rows[0]


def test_chat_remembers() -> None:
    said = run("chat.py", "any", stdin="Hello!\nAgain?\n")
    assert "user: Hello!\nassistant: user: Hello!" in said


def test_plain_predictor() -> None:
    said = run("plain_predictor.py", "any", "--ranks", "2")
    assert "The capital of Franc" in said
    assert "prompt: the prompt is empty" in said
