"""`raydsinfer reshard`, through the real command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydsinfer.checkpoints.resharding.journal import JOURNAL
from raydsinfer.cli import reshard as command
from raydsinfer.cli.main import app
from tests import synthetic


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "source", synthetic.tensors())


def run(*words: str | Path) -> tuple[int, str, str]:
    wide = {"COLUMNS": "400"}  # no path is cut in two
    result = CliRunner().invoke(app, ["reshard", *map(str, words)], catch_exceptions=False, env=wide)
    return result.exit_code, result.stdout, result.stderr


def test_a_summary_on_standard_error(source: Path, tmp_path: Path) -> None:
    code, out, err = run(source, tmp_path / "target", "--dtype", "bfloat16")
    assert (code, out) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in err.splitlines())
    assert lines["layout"].strip() == "layers"
    assert lines["tensors"].strip() == "14"
    assert lines["files"].strip() == "4"
    assert lines["bytes"].strip().endswith("kB)")
    code, _, err = run(source, tmp_path / "target", "--dtype", "bfloat16")
    assert code == 0
    assert "it was there already; nothing was written" in err


def test_json(source: Path, tmp_path: Path) -> None:
    code, out, _ = run(source, tmp_path / "target", "--json")
    assert code == 0
    said = json.loads(out)
    assert said.pop("seconds") > 0
    assert said == {
        "target": str(tmp_path / "target"),
        "layout": "layers",
        "tp_size": None,
        "num_tensors": 14,
        "num_files": 4,
        "num_bytes": sum(path.stat().st_size for path in (tmp_path / "target").glob("*.safetensors")),
        "num_resumed": 0,
        "already_there": False,
    }


def test_progress_where_there_is_no_terminal(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LINE_EVERY_S", 0.0)
    _, _, err = run(source, tmp_path / "target", "--json")
    assert err.splitlines()[-1] == "31.0 kB of 31.0 kB"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("SOURCE SOURCE/inside", 2, "apart from the source"),
        ("SOURCE TARGET --layout ranks", 2, "Say for how many ranks to cut: --tp N"),
        ("SOURCE TARGET --layout rows", 2, "layout='rows' cannot be used"),
        ("SOURCE TARGET --max-shard-size 1kB", 2, "max_shard_size='1.0 kB' cannot be used: expected at least"),
        ("SOURCE/none TARGET", 2, "no such directory"),
        ("SOURCE OTHER", 1, "was not made by reshard"),
        ("SOURCE /proc/target", 1, "cannot write /proc/target"),
        ("SOURCE", 2, "Missing argument 'DST'"),
    ],
)
def test_what_goes_wrong(source: Path, tmp_path: Path, words: str, code: int, says: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    places = {"SOURCE": source, "TARGET": tmp_path / "target", "OTHER": tmp_path / "other"}
    for name, path in places.items():
        words = words.replace(name, str(path))
    got, out, err = run(*words.split())
    assert (got, out) == (code, "")
    assert says in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "target").exists()


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors(num_layers=60, width=256))
    words = [sys.executable, "-m", "raydsinfer.cli.main", "reshard", str(source), str(tmp_path / "target")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    journal = tmp_path / "target.partial" / JOURNAL
    while not journal.is_file() or len(journal.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "finished files are kept in" in err
    assert not (tmp_path / "target").exists()
    code, out, _ = run(source, tmp_path / "target", "--json")
    assert code == 0
    assert json.loads(out)["num_resumed"] >= 3
