"""Python blocks of the documentation that are marked `<!-- run -->` work as they stand, but for the model.

The blocks of a page build on each other. A model stands in their text that no test can fetch; the echo
engine answers in its place.
"""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from tests.clusters import LEFT_TIMEOUT_S, left_of_gangs

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": ["The capital of France is"],
    "docs/quickstart.md": ["The capital of France is", "Water boils at"],
}
QUESTIONS = ["Why is the sky blue?", "", "What is a gang?"]


FILES = ["questions.jsonl", "completions", "answers"]


def marked_blocks(page: str, directory: Path) -> list[str]:
    """The blocks to run: with the echo engine in place of the model, and files in a directory of the test."""
    text = (ROOT / page).read_text()
    text = text.replace("EngineConfig(", 'EngineConfig(engine="echo", ')
    for name in FILES:
        text = text.replace(f'"{name}"', f'"{directory / name}"')
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with the data that the pages speak of."""
    rows = [{"id": place, "question": question} for place, question in enumerate(QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_every_marked_page_is_run() -> None:
    marked = {str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
              if "<!-- run -->" in path.read_text()}  # fmt: skip
    assert marked == set(PAGES)


@pytest.fixture(scope="module")
def ray_of_pages(local_ray: None) -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("ray_of_pages")
def test_blocks_of_a_page_run(page: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"np": np}
    for block in marked_blocks(page, project):
        exec(compile(block, page, "exec"), names)  # noqa: S102

    completions = pq.read_table(project / "completions").to_pydict()
    assert sorted(completions["output"]) == [prompt[:30] for prompt in PAGES[page]]
    assert set(completions["error"]) == {""}
    if page == "docs/quickstart.md":
        assert capsys.readouterr().out.strip().endswith("The capita")  # ten bytes of the last block's prompt
        answers = pq.read_table(project / "answers").sort_by("id").to_pydict()
        assert answers["output"] == answers["question"] == QUESTIONS
        assert [row["id"] for row in names["bad"].take_all()] == [1]
        chats = names["chats"].take_all()
        assert [chat["messages"][0]["content"] for chat in chats] == QUESTIONS
    names.clear()
    assert gangs_left() == []


def gangs_left(timeout_s: float = LEFT_TIMEOUT_S) -> list[str]:
    """Placement groups and ranks that are there after a while.

    Ray Data's own actors stay, and a keeper without leases stays until Ray forgets the last data set: at the end of the
    module.
    """
    gc.collect()
    deadline = time.monotonic() + timeout_s
    while True:
        left = left_of_gangs()
        gangs = left["placement groups"] + [name for name in left["processes"] if name.startswith("ray::Worker")]
        if not gangs or time.monotonic() > deadline:
            return gangs
        time.sleep(0.1)
