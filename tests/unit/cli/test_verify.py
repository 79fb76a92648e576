"""`raydsinfer verify`: what it prints, and what it refuses before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from raydsinfer.cli.main import app
from raydsinfer.cli.verify import print_report
from raydsinfer.engines.verification.report import CanaryResult, VerificationReport
from tests.models import write_tiny_model

WIDE = {"COLUMNS": "400", "NO_COLOR": "1"}


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", *map(str, words)], catch_exceptions=False, env=WIDE)
    return result.exit_code, result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model("opt", tmp_path_factory.mktemp("model") / "opt")


def test_help_has_the_engine_flags_but_not_those_that_make_no_sense() -> None:
    text = CliRunner().invoke(app, ["verify", "--help"], env=WIDE).stdout
    for flag in ("--golden", "--write-golden", "--strict", "--kernel-inject", "--cpu-ranks", "--dtype", "--max-tokens"):
        assert flag in text, flag
    for flag in ("--verify ", "--echo-fault", "--max-new-tokens"):
        assert flag not in text, flag


def test_no_model() -> None:
    code, err = run("/none")
    assert code == 2
    assert "no such directory" in err


def test_a_golden_file_to_read_and_to_write(model: Path) -> None:
    code, err = run(model, "--golden", "a", "--write-golden", "b")
    assert code == 2
    assert "expected to stand without --golden" in err


def test_a_place_that_nothing_can_be_written_to_is_found_before_the_gang_starts(model: Path, tmp_path: Path) -> None:
    code, err = run(model, "--write-golden", tmp_path / "none" / "g.json")
    assert code == 1
    assert "its directory does not exist" in err
    code, err = run(model, "--write-golden", tmp_path)
    assert code == 1
    assert "it is a directory" in err


def test_an_engine_without_a_model(model: Path) -> None:
    code, err = run(model, "--engine", "echo")
    assert code == 2
    assert "it has no model" in err


def test_wrong_settings(model: Path) -> None:
    assert run(model, "--dtype", "float12")[0] == 2
    assert run(model, "--num-gpus-per-worker-group", "1", "--cpu-ranks", "1")[0] == 2


def test_the_report_has_each_canary_and_each_way_that_failed() -> None:
    console = Console(width=120, record=True, no_color=True)
    canaries = (
        CanaryResult(name="single", num_prompt_tokens=9, num_new_tokens=6, largest_gap=1e-6, allowed_gap=1e-3),
        CanaryResult(name="long", num_prompt_tokens=1018, num_new_tokens=6, largest_gap=2e-6, allowed_gap=1e-3),
    )
    report = VerificationReport(rung="static AutoTP", source="golden", canaries=canaries, seconds=1.25)
    print_report(console, report, (("kernel injection", ("single: token 0: [other]", "long: token 1: other")),))
    text = console.export_text()
    assert "kernel injection is not right:\n  single: token 0: [other]\n  long: token 1: other\n" in text
    assert "1,018" in text
    assert "static AutoTP is right: equal to the golden file within rounding (1.2 s)" in text
