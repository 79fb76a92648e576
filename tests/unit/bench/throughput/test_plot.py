from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raydsinfer.bench.throughput.figures import Figures
from raydsinfer.bench.throughput.plot import PlotData, draw, require_plot
from raydsinfer.errors import InvalidSettingError, OutputError, UnsupportedError

FIGURES = [
    Figures(workload="uniform 1", engine="continuous", batch=1, seconds=1, new_tokens_per_s=80, step_ms=12.5,
            phases_s={"schedule": 0.2, "wait": 0.7}),
    Figures(workload="uniform 32", engine="continuous", batch=32, seconds=1, new_tokens_per_s=2000, step_ms=14.5,
            phases_s={"schedule": 0.1, "wait": 0.7}),
    Figures(workload="uniform 1", engine="static", batch=1, seconds=2, new_tokens_per_s=40),
    Figures(workload="uniform 32", engine="static", batch=32, problem="does not fit"),
    Figures(workload="mixed 512", engine="static", seconds=2, new_tokens_per_s=900),
]  # fmt: skip
DATA = PlotData(title="a model", figures=FIGURES, curve=[(1, 100.0), (32, 3000.0)])


def test_a_plot_has_its_lines_bars_and_phases(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="an optional extra")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words stay words
        draw(DATA, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for word in ("a model", "roofline", "continuous", "static", "mixed", "schedule", "70%", "14.5 ms"):
        assert f"{word}</text>" in text
    with pytest.raises(OutputError, match="cannot write"):
        draw(DATA, tmp_path / "missing" / "p.png")


def test_a_plot_of_one_workload(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="an optional extra")
    draw(PlotData(title="t", figures=FIGURES[-1:]), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_and_a_wrong_name_are_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettingError, match=r"ends in \.png, \.svg, \.pdf"):
        require_plot(Path("p.txt"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import finds if it is not installed
    with pytest.raises(UnsupportedError, match=r"pip install 'raydsinfer\[bench\]'"):
        require_plot(Path("p.png"))
