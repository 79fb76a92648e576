"""The table of families in the documentation says what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from raydsinfer.engines.families import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """Family → column → cell."""
    spec: Any = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((DOCS / "concepts.md").read_text())
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    start = next(at for at, line in enumerate(lines) if line[0] == "Family")
    head, *body = lines[start : start + len(FAMILIES) + 3]
    return {line[0].strip("`"): dict(zip(head, line, strict=True)) for line in body[1:]}


def test_each_family_has_its_row(rows: dict[str, dict[str, str]]) -> None:
    assert list(rows) == [*FAMILIES, "others"]


@pytest.mark.parametrize("name", FAMILIES)
def test_cells_follow_what_is_known_of_a_family(rows: dict[str, dict[str, str]], name: str) -> None:
    family, row = FAMILIES[name], rows[name]
    assert row["Kernel injection"].startswith("tested") == (family.kernels is not None)
    assert row["Ranks with kernels"] == ("those that divide the heads" if family.kernels else "")
    assert (row["AutoTP"] == "tested") == (row["Uneven ranks"] == "AutoTP") == (not family.autotp_problem)
    assert ("int8" in row["dtype"]) == (name != "gpt2")  # which has no linear layers
    assert ("not with kernels" in row["dtype"]) == (family.kernels is not None and name != "gpt2")
    assert row["Continuous batching"] == ("tested, on one rank" if name == "gpt2" else "tested")


def test_what_kernels_refuse_is_said(rows: dict[str, dict[str, str]]) -> None:
    assert "opt-350m" in rows["opt"]["Kernel injection"]
    assert rows["gpt_neo"]["Kernel injection"] == "tested"
    assert rows["others"]["Kernel injection"] == "no"
