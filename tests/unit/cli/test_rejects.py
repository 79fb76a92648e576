import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raydsinfer.cli.input_rows import InputRows
from raydsinfer.cli.inputs import open_input
from raydsinfer.cli.rejects import RejectsFile, open_rejects, rejects_file
from raydsinfer.errors import InvalidSettingError, OutputError


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS: list[dict[str, Any]] = [
    {"prompt": "fine", "id": 1, "tags": {"a": [1]}},
    {"prompt": "", "id": 2, "tags": None, "num_attempts": 7},
    {"prompt": 5, "id": 3},
]


def written(tmp_path: Path, name: str, blocks: list[tuple[list[str], list[int]]]) -> Path:
    rows = open_input(jsonl(tmp_path / "in.jsonl", ROWS), None, tmp_path)
    with open_rejects(rejects_file(str(tmp_path / name)), rows, overwrite=False) as rejects:
        assert rejects is not None
        first = 0
        for errors, attempts in blocks:
            rejects.add(first, errors, attempts)
            first += len(errors)
        assert not (tmp_path / name).exists()
    return tmp_path / name


def test_a_reject_is_the_whole_input_row_and_the_reason(tmp_path: Path) -> None:
    path = written(tmp_path, "r.jsonl", [(["", "prompt: it is empty: so"], [1, 0]), (["gang: it dies"], [4])])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"prompt": "", "id": 2, "tags": None, "error_class": "prompt", "error_message": "it is empty: so",
         "num_attempts": 0},
        {"prompt": "5", "id": 3, "tags": None, "error_class": "gang", "error_message": "it dies", "num_attempts": 4},
    ]  # fmt: skip


def test_no_rejects_make_an_empty_file_with_columns(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path, "r.parquet", [(["", "", ""], [1, 1, 1])]))
    assert table.num_rows == 0
    assert table.column_names == ["prompt", "id", "tags", "error_class", "error_message", "num_attempts"]


def test_rejects_can_be_the_next_input(tmp_path: Path) -> None:
    path = written(tmp_path, "r.csv", [(["", "", "prompt: not text"], [1, 1, 0])])
    rows = open_input(str(path), None, tmp_path)
    assert InputRows(rows).take([0])[0]["error_class"] == "prompt"


def test_a_failed_run_leaves_no_rejects(tmp_path: Path) -> None:
    rows = open_input(jsonl(tmp_path / "in.jsonl", ROWS), None, tmp_path)
    file = RejectsFile(path=str(tmp_path / "r.jsonl"), format="jsonl")
    with pytest.raises(ZeroDivisionError), open_rejects(file, rows, overwrite=False):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("path", "error"), [("-", InvalidSettingError), ("r.txt", InvalidSettingError), ("r.xyz", OutputError)]
)
def test_where_rejects_cannot_go(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        rejects_file(path)
