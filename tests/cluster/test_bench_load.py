"""`raydsinfer bench load` as a user runs it, on CPU ranks with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydsinfer.cli.main import app


@pytest.mark.slow
def test_weights_that_were_cut_and_deepspeeds_own_loader_give_the_same_parameters(tmp_path: Path) -> None:
    forms = ["ranks", "deepspeed"]  # cut from safetensors; whole pickles
    words = ["--shape", "opt-tiny", "--tp", "2", "--device", "cpu", "--directory", str(tmp_path / "models")]
    ran = CliRunner().invoke(app, ["bench", "load", *words, "--forms", ",".join(forms), "--json", f"{tmp_path}/out"])
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "out").read_text())
    assert [row["case"]["name"] for row in rows] == forms
    first, *others = [[rank["digest"] for rank in row["ranks"]] for row in rows]
    assert len(set(first)) == 2  # each rank has its own part
    assert others == [first]
    for row in rows:
        assert all(rank["fill_s"] <= rank["weights_s"] <= rank["load_s"] for rank in row["ranks"])
    assert all(form in ran.stdout for form in forms)


def test_an_unknown_form_is_answered_with_those_there_are(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["bench", "load", "--forms", "zip", "--directory", str(tmp_path)])
    assert ran.exit_code == 2
    assert "one of safetensors, bin, ranks, deepspeed" in " ".join(ran.output.split())
