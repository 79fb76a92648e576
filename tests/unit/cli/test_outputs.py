import json
import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydsinfer.cli import outputs
from raydsinfer.cli.outputs import open_output, output_format
from raydsinfer.errors import OutputError, UnsupportedError

SCHEMA = pa.schema({"id": pa.int64(), "output": pa.string()})


def table(*texts: str) -> pa.Table:
    return pa.table({"id": list(range(len(texts))), "output": list(texts)}, schema=SCHEMA)


def left_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("jsonl", '{"id": 0, "output": "é\\nb"}\n{"id": 1, "output": "c,\\"d\\""}\n'),
        ("csv", 'id,output\n0,"é\nb"\n1,"c,""d"""\n'),
        ("txt", 'é\\nb\nc,"d"\n'),
    ],
)
def test_text_formats(tmp_path: Path, suffix: str, expected: str) -> None:
    path = tmp_path / f"o.{suffix}"
    with open_output(str(path), output_format(str(path), None), SCHEMA, overwrite=False) as sink:
        sink.write(table("é\nb", 'c,"d"'))
        assert not path.exists()
    assert path.read_text() == expected
    assert left_in(tmp_path) == [path.name]


def test_parquet_has_all_tables_and_the_schema(tmp_path: Path) -> None:
    path = str(tmp_path / "deeper" / "o.parquet")
    with open_output(path, "parquet", SCHEMA, overwrite=False) as sink:
        sink.write(table("a"))
        sink.write(table("b"))
    assert pq.read_table(path) == pa.concat_tables([table("a"), table("b")])


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv", "txt"])
def test_no_rows_make_a_whole_empty_file(tmp_path: Path, format: outputs.Format) -> None:
    path = str(tmp_path / f"o.{format}")
    with open_output(path, format, SCHEMA, overwrite=False):
        pass
    if format == "parquet":
        assert pq.read_table(path).schema == SCHEMA
    else:
        assert Path(path).read_text() == ("id,output\n" if format == "csv" else "")


@pytest.mark.parametrize("path", ["o.parquet", "o.jsonl", "parts/", "parts"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_leaves_nothing(tmp_path: Path, path: str, error: type[BaseException]) -> None:
    path = f"{tmp_path}/{path}"

    def write_and_fail() -> None:
        with open_output(path, output_format(path, None), SCHEMA, overwrite=False) as sink:
            sink.write(table("a"))
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert left_in(tmp_path) == []


def test_part_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "ROWS_PER_PART", 3)
    path = str(tmp_path / "parts")
    with open_output(path, "jsonl", SCHEMA, overwrite=False) as sink:
        for texts in ("ab", "cd", "e"):
            sink.write(table(*texts))
    assert left_in(tmp_path / "parts") == ["part-00000.jsonl", "part-00001.jsonl"]
    lines = "".join((tmp_path / "parts" / name).read_text() for name in left_in(tmp_path / "parts")).splitlines()
    assert [json.loads(line)["output"] for line in lines] == list("abcde")


@pytest.mark.parametrize("path", ["o.jsonl", "parts/"])
def test_what_exists_is_kept_unless_told(tmp_path: Path, path: str) -> None:
    path = f"{tmp_path}/{path}"
    for text in ("old", "new"):
        with open_output(path, "jsonl", SCHEMA, overwrite=text == "new") as sink:
            sink.write(table(text))
        with pytest.raises(OutputError, match="it exists"), open_output(path, "jsonl", SCHEMA, overwrite=False):
            pass
    written = path if path.endswith("l") else f"{path}part-00000.jsonl"
    assert json.loads(Path(written).read_text())["output"] == "new"
    assert len(left_in(tmp_path)) == 1


def test_a_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), open_output(str(path), "txt", SCHEMA, overwrite=True):
        raise ZeroDivisionError
    assert (path.read_text(), left_in(tmp_path)) == ("old", ["o.txt"])


def test_a_directory_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.doc").write_text("dear")
    for path, says in ((f"{home}/", "thesis.doc"), (str(home), "thesis.doc")):
        with pytest.raises(OutputError, match=says), open_output(path, "jsonl", SCHEMA, overwrite=True):
            pass
    assert left_in(home) == ["thesis.doc"]


def test_finished_rows_survive_when_their_place_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"

    def write_while_another_does() -> None:
        with open_output(str(path), "txt", SCHEMA, overwrite=False) as sink:
            sink.write(table("precious"))
            path.write_text("somebody else's")

    with pytest.raises(OutputError) as caught:
        write_while_another_does()
    (kept,) = set(left_in(tmp_path)) - {"o.txt"}
    assert kept in str(caught.value)
    assert (tmp_path / kept).read_text() == "precious\n"
    assert path.read_text() == "somebody else's"


def test_a_file_in_the_way_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), open_output(f"{tmp_path}/file/o.txt", "txt", SCHEMA, overwrite=False):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(OutputError, match="Permission denied"),
            open_output(f"{tmp_path}/o.txt", "txt", SCHEMA, overwrite=False),
        ):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_urls(tmp_path: Path) -> None:
    with open_output("memory://bucket/o.jsonl", "jsonl", SCHEMA, overwrite=False) as sink:
        sink.write(table("a"))
    memory = fsspec.filesystem("memory")
    assert memory.cat("/bucket/o.jsonl") == b'{"id": 0, "output": "a"}\n'
    assert [name for name in memory.find("/bucket") if "partial" in name] == []


def test_lists_do_not_fit_into_lines_of_text(tmp_path: Path) -> None:
    schema = pa.schema({"output": pa.list_(pa.string())})
    with pytest.raises(UnsupportedError), open_output(f"{tmp_path}/o.txt", "txt", schema, overwrite=False):
        pass


def test_formats_by_path() -> None:
    assert [output_format(p, None) for p in ("-", "a.d/parts", "x.pq", "x.JSON", "p/", "x.csv")] == [
        "jsonl", "parquet", "parquet", "jsonl", "parquet", "csv",
    ]  # fmt: skip
    assert output_format("parts", "csv") == "csv"
    for path, named in (("o.xyz", None), ("-", "parquet")):
        with pytest.raises(OutputError):
            output_format(path, named)  # type: ignore[arg-type]
