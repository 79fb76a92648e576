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

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.store import RunStore
from tests.clusters import left_of_gangs
from tests.commands import wait_until

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
    code, out, err = generate(str(prompts), str(output), *shape, "--rejects", f"{tmp_path}/r.jsonl")
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
    rejects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [(row["id"], row["error_class"]) for row in rejects] == [
        (3, "prompt"), (7, "prompt"), (11, "prompt"), (15, "generation"), (23, "length"),
    ]  # fmt: skip
    assert rejects[3]["generation"] == {"max_new_tokens": None, "temperature": "hot"}
    assert [row["num_attempts"] for row in rejects] == [0] * 5


def test_stdin_to_stdout_with_nothing_else_there() -> None:
    code, out, err = generate("-", "-", "--cpu-ranks", "1", "--keep-columns", "", stdin="one\ntwo\n")
    assert (code, [json.loads(line)["output"] for line in out.splitlines()]) == (0, ["one", "two"])
    assert "tokens per second" in err


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted; no process and no unfinished file was left behind"), (signal.SIGTERM, 143, "")],
)
def test_interrupt_leaves_nothing_but_what_is_kept(tmp_path: Path, sent: signal.Signals, code: int, said: str) -> None:
    (tmp_path / "p.txt").write_text("hang here\n")
    address = ray.get_runtime_context().gcs_address
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o.jsonl", "--engine", "echo", "--address", address]
    process = start(
        "generate", "any/model", *words, "--resume", "--echo-delay-s", "600", "--num-gpus-per-worker-group", "2"
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ready"):
            break
    assert {path.name.partition(".partial")[0] for path in tmp_path.iterdir()} == {"p.txt", ".o.jsonl", "o.jsonl.run"}
    time.sleep(1)  # into the call that hangs
    os.killpg(process.pid, sent)
    got, _, err = finish(process)
    kept = f"The rows that were done are in {tmp_path}/o.jsonl.run: the same command goes on from there."
    # Ray may say before that a worker of its own has died.
    assert (got, [line for line in err.splitlines() if "(raylet)" not in line]) == (
        code,
        [said, kept] if said else [kept],
    )
    assert {path.name for path in tmp_path.iterdir()} == {"p.txt", "o.jsonl.run"}


def num_done(store: RunStore) -> int:
    """How many rows are stored; none before the job has noted its start."""
    try:
        return store.status().num_done
    except RunDirectoryError:
        return 0


def test_a_killed_driver_goes_on_from_what_is_stored(tmp_path: Path) -> None:
    prompts, output = (str(tmp_path / name) for name in ("p.jsonl", "o.jsonl"))
    # Every third row is the same one, and some are bad.
    rows = [{"id": i, "prompt": "" if i % 50 == 7 else "same" if i % 3 == 0 else f"prompt {i}"} for i in range(300)]
    Path(prompts).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--num-gpus-per-worker-group", "1", "--batch-size", "5", "--max-batch-size", "5", "--duplicates", "each"]
    address = ray.get_runtime_context().gcs_address
    slow = ["--echo-delay-s", "0.2", "--engine", "echo", "--address", address]
    process = start("generate", "any/model", prompts, output, "--resume", *words, *slow)
    store = RunStore(f"{output}.run")
    wait_until(lambda: num_done(store) >= 30, 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: left_of_gangs()["placement groups"] == [])
    before = store.status()
    assert 30 <= before.num_done < 290
    assert not Path(output).exists()

    code, _, err = generate(prompts, output, "--resume", *words)
    assert code == 3
    assert f"300 ({before.num_done + before.num_failed} done before)" in " ".join(err.split())
    after = store.status()
    assert (after.num_done, after.num_failed, after.num_left, after.num_starts) == (294, 6, 0, 2)
    num_stored = sum(json.loads(path.read_text())["num_rows"] for path in Path(f"{output}.run/manifests").iterdir())
    assert num_stored == 300, "a stored row was computed again"

    # All is there: a gang, which could not even load, is not started.
    again = ["--resume", "--overwrite", *words, "--echo-fault", json.dumps({"when": "load"})]
    first = Path(output).read_text()
    assert generate(prompts, output, *again)[0] == 3
    assert Path(output).read_text() == first
    written = [json.loads(line) for line in first.splitlines()]
    assert [(row["id"], row["prompt"], row["output"]) for row in written] == [
        (row["id"], row["prompt"], row["prompt"]) for row in rows
    ]


def test_policies_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n" + "".join(f"row {number}\n" for number in range(99)))
    words = [f"{tmp_path}/p.txt", f"{tmp_path}/o.jsonl", "--cpu-ranks", "1", "--batch-size", "10", "--resume"]
    code, _, err = generate(*words, "--max-error-rate", "0.009")
    assert code == 4
    assert "1 of 100 rows failed (1.0%), more than max_error_rate=0.009 allows" in err
    assert "the same command goes on from there" in " ".join(err.split())
    assert not (tmp_path / "o.jsonl").exists()
    # A row that failed before is no answer where none may fail.
    code, _, err = generate(*words, "--on-error", "raise")
    assert code == 4
    assert "failed: prompt: the prompt is empty" in err


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
    assert "2 gangs: 2 ranks on" in text
    assert "not every gang has a place" in text
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_demo_rehearsal_starts_its_own_cluster(tmp_path: Path) -> None:
    code, out, err = finish(start("demo", "--engine", "echo", "--output-dir", str(tmp_path / "out")))
    assert code == 0, err
    assert "The capital of France is" in out
    assert "error rows 0" in " ".join(err.split())
    rows = pq.read_table(tmp_path / "out" / "completions.parquet").to_pylist()
    lines = (tmp_path / "out" / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert len(rows) >= 50
