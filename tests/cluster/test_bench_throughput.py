"""`raydsinfer bench throughput` as a user runs it, on CPU with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydsinfer.cli.main import app


@pytest.mark.slow
def test_engines_side_by_side_give_the_same_tokens(tmp_path: Path) -> None:
    words = ["--shape", "opt-tiny", "--num-layers", "1", "--device", "cpu", "--rounds", "2"]
    sizes = ["--batches", "2", "--workloads", "uniform,mixed:3,shared-prefix:3:600", "--max-batch-size", "4"]
    # Rows of the last workload are longer than max_tokens: they are left out, and nothing else is.
    paths = ["--directory", str(tmp_path / "models"), "--json", str(tmp_path / "out"), "--set", "max_tokens=650"]
    ran = CliRunner().invoke(
        app, ["bench", "throughput", "--engines", "continuous,transformers", *words, *sizes, *paths]
    )
    assert ran.exit_code == 0, ran.output
    document = json.loads((tmp_path / "out").read_text())
    assert [w["name"] for w in document["workloads"]] == ["uniform 2", "mixed 3", "shared-prefix 3"]
    assert document["hardware"]["packages"]["torch"]
    *measured, first, second = document["figures"]
    assert first["problem"] == second["problem"] == "does not fit: rows of 696 tokens, max_tokens is 650"
    assert [row["engine"] for row in measured] == ["continuous", "transformers"] * 2
    for row in measured:
        assert row["equal_rows_share"] == 1.0  # float32: the same tokens as plain transformers
        assert row["fastest_s"] <= row["seconds"] <= row["slowest_s"]
        assert 0 < row["roofline_share"] < 1
        assert row["new_tokens_per_s"] == pytest.approx(row["new_tokens"] / row["seconds"])
    assert [row["waste_share"] == 0 for row in measured] == [True, True, False, False]
    assert all(engine["start_up_s"] > 0 and engine["warm_up_s"] > 0 for engine in document["engines"])
    assert all(0 < sum(row["phases_s"].values()) < row["seconds"] * 1.5 for row in measured[::2])
    assert "Where the time goes" in ran.stdout
    assert "does not fit" in ran.stdout
    assert "of memory" in ran.stdout
