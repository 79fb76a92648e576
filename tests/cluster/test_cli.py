"""The command on a cluster that is there already, as a user runs it: output, messages, exit codes, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90


def start(*words: str, stdin: str | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "raydsinfer.cli.main", *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What Ctrl-C on a terminal would reach.
        start_new_session=True,
    )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert "Traceback" not in err
    return process.returncode, out, err


def generate(*words: str, stdin: str | None = None) -> tuple[int, str, str]:
    address = ray.get_runtime_context().gcs_address
    return finish(start("generate", "any/model", *words, "--engine", "echo", "--address", address, stdin=stdin))


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_bad_rows_are_answered_beside_good_ones(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": number, "prompt": f"prompt {number}"} for number in range(40)]
    rows[3] = {"id": 3, "prompt": ""}
    rows[7] = {"id": 7, "prompt": 5}
    rows[11] = {"id": 11}
    rows[15] = {"id": 15, "prompt": "p", "generation": {"temperature": "hot"}}
    rows[19] = {"id": 19, "prompt": "cut", "generation": {"max_new_tokens": 2}}
    rows[23] = {"id": 23, "prompt": "x" * 2000}
    prompts, output = tmp_path / "p.jsonl", tmp_path / "o.parquet"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = ["--num_worker_groups", "2", "--num_gpus_per_worker_group", "2", "--batch_size", "5"]
    code, out, err = generate(str(prompts), str(output), *shape)
    assert (code, out) == (3, "")
    written = pq.read_table(output).to_pylist()
    assert [row["id"] for row in written] == list(range(40))
    bad = {3, 7, 11, 15, 23}
    for row in written:
        assert (row["finish_reason"] == "error", row["error"] != "") == ((row["id"] in bad),) * 2
        if row["id"] not in bad | {19}:
            assert row["output"] == f"prompt {row['id']}"
    assert (written[19]["output"], written[19]["finish_reason"]) == ("cu", "length")
    assert "40 rows, 2 gangs of 2 GPU ranks" in err
    assert "5 (prompt: 3, generation: 1, length: 1)" in " ".join(err.split())


def test_stdin_to_stdout_with_nothing_else_there() -> None:
    code, out, err = generate("-", "-", "--cpu-ranks", "1", "--keep-columns", "", stdin="one\ntwo\n")
    assert (code, [json.loads(line)["output"] for line in out.splitlines()]) == (0, ["one", "two"])
    assert "tokens per second" in err


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted; no process and no unfinished file was left behind"), (signal.SIGTERM, 143, "")],
)
def test_interrupt_leaves_nothing(tmp_path: Path, sent: signal.Signals, code: int, said: str) -> None:
    (tmp_path / "p.txt").write_text("hang here\n")
    address = ray.get_runtime_context().gcs_address
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o.jsonl", "--engine", "echo", "--address", address]
    process = start("generate", "any/model", *words, "--echo-delay-s", "600", "--num-gpus-per-worker-group", "2")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ready"):
            break
    assert [path.name.partition(".partial")[0] for path in tmp_path.iterdir() if path.name != "p.txt"] == [".o.jsonl"]
    time.sleep(1)  # into the call that hangs
    os.killpg(process.pid, sent)
    got, _, err = finish(process)
    assert (got, err.strip()) == (code, said)
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_a_gang_that_fails_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("fine\npoison\n")
    fault = json.dumps({"rank": 1, "when": "load"})
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o/", "--num-gpus-per-worker-group", "2", "--echo-fault", fault]
    code, out, err = generate(*words)
    assert (code, out) == (1, "")
    assert "failed in load:\n  rank 1: EngineError: echo engine, load: told to fail on rank 1" in err
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_more_ranks_than_gpus(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("x\n")
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o.csv", "--num-gpus-per-worker-group", "9"]
    code, _, err = generate(*words, "--placement-timeout-s", "2")
    assert code == 1
    assert "9 bundles of {'GPU': 1.0} are wanted, but idle nodes would hold 4" in err
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_a_plan_starts_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("x\n" * 7)
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o.csv", "--dry-run", "--num-worker-groups", "3"]
    code, out, _ = generate(*words, "--num-gpus-per-worker-group", "2")
    assert code == 1  # the third gang has no place
    text = " ".join(out.split())
    assert "7 rows in 1 txt file" in text
    assert "2 gangs 2 ranks on" in text
    assert "not every gang has a place" in text
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_demo_rehearsal_starts_its_own_cluster(tmp_path: Path) -> None:
    code, out, err = finish(start("demo", "--engine", "echo", "--output-dir", str(tmp_path / "out")))
    assert code == 0
    assert "The capital of France is" in out
    assert "error rows 0" in " ".join(err.split())
    rows = pq.read_table(tmp_path / "out" / "completions.parquet").to_pylist()
    lines = (tmp_path / "out" / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert len(rows) >= 50
