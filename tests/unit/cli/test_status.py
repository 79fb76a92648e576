import json
from pathlib import Path

import pyarrow as pa
from typer.testing import CliRunner

from raydsinfer.cli.main import app
from raydsinfer.cli.status import status_lines
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.store import RunStore


def some_run(run_dir: Path, num_rows: int | None) -> RunStore:
    store = RunStore(str(run_dir))
    store.begin(RunIdentity(settings={}), num_rows=num_rows, resume=False)
    table = pa.table(
        {"output": ["a", ""], "num_prompt_tokens": [3, 0], "num_output_tokens": [2, 0], "error": ["", "prompt: empty"]}
    )
    store.commit([b"a" * 16, b"b" * 16], table, seconds=90, num_restarts=1)
    return store


def test_a_run_in_the_middle(tmp_path: Path) -> None:
    found = some_run(tmp_path / "run", 1234).status()
    assert found.last_at is not None
    lines = dict(status_lines(found, now=found.last_at + 5))
    expected = {
        "state": "not finished", "rows done": "1", "rows failed": "1", "rows left": "1,232", "prompt tokens": "3",
        "new tokens": "2", "time of all gangs": "1 min 30 s", "restarts": "1", "last row stored": "5.0 s ago",
    }  # fmt: skip
    assert expected.items() <= lines.items()


def test_the_number_of_rows_may_be_unknown(tmp_path: Path) -> None:
    assert "unknown" in dict(status_lines(some_run(tmp_path / "run", None).status()))["rows left"]


def test_the_command(tmp_path: Path) -> None:
    some_run(tmp_path / "run", 2).finish(num_rows=2, num_errors=1)
    table = CliRunner().invoke(app, ["status", str(tmp_path / "run")])
    assert (table.exit_code, "rows left" in table.stdout, "finished" in table.stdout) == (0, True, True)
    told = json.loads(CliRunner().invoke(app, ["status", str(tmp_path / "run"), "--json"]).stdout)
    assert (told["num_done"], told["num_failed"], told["num_left"], told["finished"]) == (1, 1, 0, True)


def test_what_is_no_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is no run directory" in " ".join(result.stderr.split())
