from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.data.block import BlockAccessor

from raydsinfer.cli.inputs import Input, open_input
from raydsinfer.cli.records import SliceReader, read_slice
from raydsinfer.cli.results import conformed
from raydsinfer.cli.rows_of_text import Row
from raydsinfer.errors import InputError


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def all_rows(found: Input, batch_size: int = 2) -> list[Row]:
    columns = list(found.types)
    return [
        row
        for part in found.slices(batch_size)
        for row in read_slice(part.path, found.format, part.start, part.num_rows, columns)
    ]


def test_text_keeps_blank_lines_and_needs_no_last_newline(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.txt", "\ufeffone\r\n\nthree ä\nfour"), None, tmp_path)
    assert [row["prompt"] for row in all_rows(found)] == ["one", "", "three ä", "four"]
    assert found.num_rows == 4


def test_jsonl_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.jsonl", '{"prompt": "a"}\n\n{"id": 1}\n{"id": 2.5}\n'), None, tmp_path)
    assert all_rows(found) == [{"prompt": "a", "id": None}, {"prompt": None, "id": 1}, {"prompt": None, "id": 2.5}]
    assert found.types == {"prompt": pa.string(), "id": pa.float64()}


def test_a_column_of_several_kinds_is_marked(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.jsonl", '{"prompt": "a"}\n{"prompt": 5}\n'), None, tmp_path)
    assert found.types == {"prompt": None}
    assert [row["prompt"] for row in all_rows(found)] == ["a", 5]


def test_a_json_array_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    found = open_input(write(tmp_path / "in" / "p.json", ' [{"prompt": "a"},\n {"prompt": "b"}]'), None, tmp_path)
    assert [row["prompt"] for row in all_rows(found)] == ["a", "b"]


def test_csv_cells_are_text_and_may_span_lines(tmp_path: Path) -> None:
    text = 'id,prompt\n007,"two\nlines, ""quoted"""\n8,\n9,ä\n'
    found = open_input(write(tmp_path / "p.csv", text), None, tmp_path)
    assert all_rows(found, batch_size=1) == [
        {"id": "007", "prompt": 'two\nlines, "quoted"'},
        {"id": "8", "prompt": ""},
        {"id": "9", "prompt": "ä"},
    ]


def test_a_cell_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.csv", f"prompt\n{'x' * 200_000}\n"), None, tmp_path)
    assert len(all_rows(found)[0]["prompt"]) == 200_000


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_parquet_slices_cross_row_groups(tmp_path: Path, batch_size: int) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [f"p{i}" for i in range(20)], "id": list(range(20))}), path, row_group_size=6)
    found = open_input(str(path), None, tmp_path)
    assert [row["id"] for row in all_rows(found, batch_size)] == list(range(20))


def test_a_directory_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("b.txt", "a.txt", ".hidden.txt", "_SUCCESS", "notes.md"):
        (rows / name).write_text(f"{name}\n")
    for path in (str(rows), str(rows / "[ab].txt")):
        assert [row["prompt"] for row in all_rows(open_input(path, None, tmp_path))] == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.jsonl", '{"a": 1}\nnope\n', "line 2 is not jsonl"),
        ("p.jsonl", '{"a": 1}\n[1]\n', "line 2 is not jsonl (expected an object, got list)"),
        ("p.csv", "a,b\n1,2\n1,2,3\n", "line 3 is not csv (3 cells where the header has 2)"),
        ("p.csv", 'a,b\n1,"open\n', "not csv"),
        ("p.parquet", "not parquet", "not readable as parquet"),
        ("p.json", '[{"a": 1}', "begins like a JSON array"),
        ("p.unknown", "x", "its suffix names no format"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        open_input(write(tmp_path / name, text), None, tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 2"):
        open_input(str(tmp_path / "p.txt"), None, tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, says in (("none.txt", "no such file"), ("empty", "no files there"), ("*.csv", "no files there")):
        with pytest.raises(InputError, match=says):
            open_input(str(tmp_path / path), None, tmp_path)


def test_files_of_several_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "x\n")
    write(tmp_path / "b.jsonl", "{}\n")
    with pytest.raises(InputError, match="several formats"):
        open_input(str(tmp_path), None, tmp_path)


def test_an_empty_csv_still_names_its_columns(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.csv", "prompt,id\n"), None, tmp_path)
    assert (found.num_rows, list(found.types)) == (0, ["prompt", "id"])


def test_the_reader_keeps_integers_beside_gaps_and_lists_of_equal_length(tmp_path: Path) -> None:
    import pandas as pd

    path = write(tmp_path / "p.jsonl", '{"id": 1, "tags": [1, 2]}\n{"tags": [3, 4]}\n')
    named = pd.DataFrame([{"path": path, "start": 0, "num_rows": 2, "first": 0}])
    block = SliceReader("jsonl", ["id", "tags"]).read(named)
    assert block["id"].tolist() == [1, None]
    assert block["tags"].tolist() == [[1, 2], [3, 4]]
    assert list(block) == ["id", "tags"]


def test_rows_have_numbers_across_files(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "in").mkdir()
    for name, count in (("a", 3), ("b", 4)):
        write(tmp_path / "in" / f"{name}.txt", "".join(f"{name}{i}\n" for i in range(count)))
    found = open_input(str(tmp_path / "in"), None, tmp_path)
    reader = SliceReader("txt", ["prompt"], number_column="nr")
    blocks = [reader.read(pd.DataFrame([asdict(part)])) for part in found.slices(2)]
    numbered = [(int(nr), text) for block in blocks for nr, text in zip(block["nr"], block["prompt"], strict=True)]
    assert numbered == list(enumerate(["a0", "a1", "a2", "b0", "b1", "b2", "b3"]))


def test_many_rows_make_a_bounded_number_of_slices(tmp_path: Path) -> None:
    found = open_input(write(tmp_path / "p.txt", "x\n" * 9001), None, tmp_path)
    slices = found.slices(1)
    assert len(slices) <= 2000
    assert sum(part.num_rows for part in slices) == 9001


@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r")), max_size=20),
    batch_size=st.integers(1, 7),
)
def test_slices_of_text_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], batch_size: int
) -> None:
    directory = tmp_path_factory.mktemp("rows")
    found = open_input(write(directory / "p.txt", "".join(f"{line}\n" for line in lines)), None, directory)
    expected = [line if number else line.removeprefix("\ufeff") for number, line in enumerate(lines)]
    assert [row["prompt"] for row in all_rows(found, batch_size)] == expected


def test_a_cell_that_is_no_text_costs_no_other_row(tmp_path: Path) -> None:
    buffers = pa.array([b"ok", b"\xff\xfe", b"fine"], pa.binary()).buffers()
    pq.write_table(pa.table({"prompt": pa.Array.from_buffers(pa.string(), 3, buffers)}), tmp_path / "a.parquet")
    rows = read_slice(str(tmp_path / "a.parquet"), "parquet", 0, 3, ["prompt"])
    assert [rows[0]["prompt"], rows[2]["prompt"]] == ["ok", "fine"]
    assert "not readable" in repr(rows[1]["prompt"])
    # As Ray Data passes it on, and as it comes out where columns of the input are kept.
    block = BlockAccessor.batch_to_block(
        SliceReader("parquet", ["prompt"]).read(
            pd.DataFrame([{"path": str(tmp_path / "a.parquet"), "start": 0, "num_rows": 3, "first": 0}])
        )
    )
    schema = pa.schema([pa.field("prompt", pa.string())])
    table = conformed(BlockAccessor.for_block(block).to_arrow(), schema, [])
    assert table["prompt"].to_pylist() == ["ok", None, "fine"]
