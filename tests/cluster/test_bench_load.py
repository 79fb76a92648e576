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
    ran = CliRunner().invoke(
        app,
        [
            "bench",
            "load",
            *words,
            "--forms",
            ",".join(forms),
            "--json",
            f"{tmp_path}/out",
            "--no-keep",
            "--generate-rows",
            "1",
        ],
    )
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "out").read_text())
    assert [row["case"]["name"] for row in rows] == [f"opt-tiny {form}" for form in forms]
    first, *others = [[rank["digest"] for rank in row["ranks"]] for row in rows]
    assert len(set(first)) == 2  # each rank has its own part
    assert others == [first]
    for row in rows:
        assert all(rank["fill_s"] <= rank["weights_s"] <= rank["load_s"] for rank in row["ranks"])
    assert all(form in ran.stdout for form in [*forms, "step ms"])
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--forms", "zip"], "one of safetensors, bin, ranks, deepspeed", 2),
        (["--device", "tpu"], "expected cuda or cpu", 2),
        (["--device", "cuda", "--tp", "99"], "at most the GPUs here", 2),
        (["--shape", "opt-67b", "--device", "cpu"], "one of opt-tiny", 2),
        (["--shape", "opt-tiny", "--device", "cpu", "--directory", "/proc/nowhere"], "cannot write /proc/nowhere", 1),
    ],
)
def test_mistakes_are_named_before_anything_starts(words: list[str], said: str, code: int) -> None:
    ran = CliRunner().invoke(app, ["bench", "load", *words])
    assert said in " ".join(ran.output.split())
    assert ran.exit_code == code
