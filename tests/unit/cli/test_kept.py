from pathlib import Path
from typing import Any

import pytest

from raydsinfer.cli.kept import KeptRun, kept_run
from raydsinfer.errors import InvalidSettingError
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.store import RunStore


def asked(output: str = "o.jsonl", **flags: Any) -> KeptRun | None:
    nothing = {"resume": False, "run_dir": None, "retry_failed": False, "duplicates": "once"}
    return kept_run(output, **{**nothing, **flags})


def test_nothing_is_kept_unless_asked() -> None:
    assert asked() is None


@pytest.mark.parametrize(
    ("output", "run_dir"),
    [("o.jsonl", "o.jsonl.run"), ("parts/", "parts.run"), ("s3://bucket/o.csv", "s3://bucket/o.csv.run")],
)
def test_beside_the_output(output: str, run_dir: str) -> None:
    found = asked(output, resume=True)
    assert found is not None
    assert (found.run_dir, found.resume) == (run_dir, True)


def test_a_directory_of_its_own_must_be_new_unless_resume_is_said() -> None:
    assert asked(run_dir="runs/a") == KeptRun(run_dir="runs/a", resume=False)
    assert asked("-", run_dir="runs/a", resume=True, retry_failed=True, duplicates="each") == KeptRun(
        run_dir="runs/a", retry_failed=True, duplicates="each"
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"retry_failed": True}, "to stand with --resume"),
        ({"duplicates": "each"}, "to stand with --resume"),
        ({"duplicates": "twice", "resume": True}, "'once' or 'each'"),
        ({"resume": True, "output": "-"}, "to stand with --run-dir"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSettingError, match=says):
        asked(**flags)


def test_how_to_go_on_is_said_once_there_is_something(tmp_path: Path) -> None:
    kept = KeptRun(run_dir=str(tmp_path / "o.run"))
    assert kept.how_to_go_on() == ""
    RunStore(kept.run_dir).begin(RunIdentity(settings={}), num_rows=1, resume=False)
    assert "the same command goes on" in kept.how_to_go_on()
    assert "with --resume" in KeptRun(run_dir=kept.run_dir, resume=False).how_to_go_on()
    assert KeptRun(run_dir="nosuchprotocol://x").how_to_go_on() == ""
