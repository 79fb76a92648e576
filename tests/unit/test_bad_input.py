"""What is wrong with settings, paths, files, columns and rows, and what answers it: one table, and fuzzing.

What is wrong with a call is a typed error that names the value, the limit and the next step; what is wrong with a
row becomes that row's ``error``, and the rows beside it are answered.
"""

from __future__ import annotations

import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raydsinfer.checkpoint import SETTINGS_FILE, DeepSpeedCheckpoint
from raydsinfer.cli.inputs import open_input
from raydsinfer.cli.main import app
from raydsinfer.cli.records import read_slice
from raydsinfer.config import EchoFault, EngineConfig, GangConfig, GenerationConfig, RecoveryConfig, Settings
from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InputError,
    InvalidSettingError,
    MissingColumnError,
    RaydsinferError,
    UnknownSettingError,
    UnsupportedError,
)
from raydsinfer.rows.request import BadRow, Request, Row, read_row
from tests.gangs import InProcessSupervisor

CONFIG = EngineConfig(engine="echo", max_tokens=64, max_batch_size=8)
CALL = GenerationConfig(max_new_tokens=10)
LONGEST_MESSAGE = 1500  # characters: an error is read by people, and stored with its row
NAN, INFINITY = float("nan"), float("inf")


class NoRepr:
    """A cell that cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError("no text for this")


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def itself() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


# What is wrong with a row: its cells, the kind of the error, words of it.
ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing", {}, "prompt", "missing"),
    ("NaN", {"prompt": NAN}, "prompt", "missing"),
    ("pandas NA", {"prompt": pd.NA}, "prompt", "missing"),
    ("a signalling decimal", {"prompt": decimal.Decimal("sNaN")}, "prompt", "missing"),
    ("not a time", {"prompt": pd.NaT}, "prompt", "missing"),
    ("empty", {"prompt": ""}, "prompt", "empty"),
    ("a number", {"prompt": 3}, "prompt", "expected text, got 3 (int)"),
    ("a number of 5000 digits", {"prompt": 10**5000}, "prompt", "(int)"),
    ("true", {"prompt": True}, "prompt", "True (bool)"),
    ("bytes", {"prompt": b"\xff\x00"}, "prompt", "(bytes)"),
    ("a list", {"prompt": ["a"]}, "prompt", "(list)"),
    ("a data frame", {"prompt": pd.DataFrame({"a": [1]})}, "prompt", "(DataFrame)"),
    ("an array of a million", {"prompt": np.zeros(10**6)}, "prompt", "(ndarray)"),
    ("a class without text", {"prompt": NoRepr()}, "prompt", "(NoRepr)"),
    ("half a surrogate pair", {"prompt": "a\ud83d"}, "prompt", "cannot be tokenised"),
    ("10 MB", {"prompt": "x" * 10_000_000}, "length", "10000000 prompt tokens"),
    ("10 MB of emoji", {"prompt": "🐟" * 2_500_000}, "length", "10000000 prompt tokens"),
    ("messages of nobody", {"messages": []}, "messages", "no message"),
    ("messages that are JSON of a text", {"messages": '"hi"'}, "messages", "expected a list"),
    ("messages of broken JSON", {"messages": '[{"role": "user"'}, "messages", "not JSON"),
    ("messages of JSON with a control character", {"messages": '[{"role": "us\x01er"}]'}, "messages", "not JSON"),
    ("one message, no list", {"messages": {"role": "user", "content": "x"}}, "messages", "expected a list"),
    ("messages in bytes", {"messages": b"[]"}, "messages", "(bytes)"),
    ("a message that is a text", {"messages": ["hi"]}, "messages", "message 0 is not a mapping"),
    ("a message without content", {"messages": [{"role": "user"}]}, "messages", "got nothing"),
    ("a content of parts", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages", "(list)"),
    ("a content without end", {"messages": [{"role": "user", "content": itself()}]}, "messages", "(list)"),
    ("messages within messages", {"messages": nested(100_000)}, "messages", "nested too deeply"),
    ("messages that hold themselves", {"messages": itself()}, "messages", "nested too deeply"),
    ("messages nested as JSON", {"messages": "[" * 100_000}, "messages", "not JSON"),
    ("a conversation of 10 MB", {"messages": [{"role": "user", "content": "x" * 10**7}]}, "length", "max_tokens is 64"),
    ("an unknown setting", {"generation": {"max_tokns": 5}}, "generation", "no setting 'max_tokns'"),
    ("a setting of Python's", {"generation": {"self": 1}}, "generation", "no setting 'self'"),
    ("a setting of pydantic's", {"generation": {"model_config": {}}}, "generation", "no setting 'model_config'"),
    ("a setting's name of 10 MB", {"generation": {"x" * 10**7: 1}}, "generation", "no setting 'xxx"),
    ("a setting's value of 10 MB", {"generation": {"max_new_tokens": "x" * 10**7}}, "generation", "='xxx"),
    ("a name that is a number", {"generation": {5: 1}}, "generation", "setting names are texts"),
    ("a temperature below 0", {"generation": {"temperature": -1}}, "generation", "temperature=-1"),
    ("an infinite temperature", {"generation": {"temperature": INFINITY}}, "generation", "a finite number"),
    ("a top_p above 1", {"generation": '{"top_p": 1.5}'}, "generation", "top_p=1.5"),
    ("a text for a number", {"generation": {"max_new_tokens": "5"}}, "generation", "max_new_tokens='5'"),
    ("half a token", {"generation": {"max_new_tokens": 2.5}}, "generation", "max_new_tokens=2.5"),
    ("a seed of 80 bits", {"generation": {"seed": 2**80}}, "generation", "less than"),
    ("a seed of 5000 digits", {"generation": {"seed": 10**5000}}, "generation", "seed="),
    ("more tokens than there are", {"generation": {"max_new_tokens": 64}}, "generation", "max_tokens=64"),
    ("an empty stop string", {"generation": {"stop_strings": [""]}}, "generation", "non-empty"),
    ("a stop string that is none", {"generation": {"stop_strings": [1]}}, "generation", "stop_strings"),
    ("stop strings without end", {"generation": {"stop_strings": itself()}}, "generation", "nested too deeply"),
    ("more beams than rows fit", {"generation": {"num_beams": 9}}, "generation", "max_batch_size=8"),
    ("lists only of this row", {"generation": {"num_return_sequences": 2, "do_sample": True}}, "generation", "predict"),
    ("settings that are a list", {"generation": [1]}, "generation", "expected settings by name"),
    ("settings that are a number", {"generation": 5}, "generation", "expected settings by name"),
    ("settings in bytes", {"generation": b"{}"}, "generation", "(bytes)"),
    ("settings of broken JSON", {"generation": "{max_new_tokens: 5}"}, "generation", "not JSON"),
    ("settings of JSON for a number", {"generation": "5"}, "generation", "expected settings by name"),
]

# What is odd about a row that is answered all the same.
FINE: list[tuple[str, dict[str, Any]]] = [
    ("control characters", {"prompt": "\x00\x07\x1b[31m\x7f\u202e\ufeff"}),
    ("a line separator", {"prompt": "a\u2028b\x85c\r\n"}),
    ("combining characters", {"prompt": "e\u0301\u200d🏳️‍🌈"}),
    ("a private character", {"prompt": "\ue000\U0010ffff"}),
    ("blanks", {"prompt": "   "}),
    ("what looks like a special token", {"prompt": "</s><|endoftext|>"}),
    ("what looks like a command", {"prompt": "$(reboot); `ls` && __import__('os')"}),
    ("a numpy text", {"prompt": np.str_("abc")}),
    ("settings that say NaN", {"prompt": "a", "generation": '{"temperature": NaN}'}),
    ("settings twice", {"prompt": "a", "generation": '{"seed": 1, "seed": 2}'}),
    ("a decimal", {"prompt": "a", "generation": {"temperature": decimal.Decimal("0.5")}}),
    ("a field that cannot be shown", {"messages": [{"role": "user", "content": "a", "more": NoRepr()}]}),
]

# Settings that cannot be, by class.
SETTINGS: list[tuple[type[Settings], dict[str, Any], type[RaydsinferError], str]] = [
    (EngineConfig, {"self": 1}, UnknownSettingError, "no setting 'self'"),
    (EngineConfig, {"cls": 1}, UnknownSettingError, "no setting 'cls'"),
    (EngineConfig, {"max tokens": 1}, UnknownSettingError, "Did you mean 'max_tokens'"),
    (EngineConfig, {"max_tokens": -1}, InvalidSettingError, "max_tokens=-1"),
    (EngineConfig, {"max_tokens": 1e3}, InvalidSettingError, "a valid integer"),
    (EngineConfig, {"dtype": "x" * 10**6}, InvalidSettingError, "'float16'"),
    (EngineConfig, {"dtype": "int8", "kernel_inject": True}, UnsupportedError, "Use kernel_inject=False"),
    (EngineConfig, {"dtype": "int4"}, InvalidSettingError, "'int8'"),
    (EngineConfig, {"gpu_memory_utilization": NAN}, InvalidSettingError, "gpu_memory_utilization=nan"),
    (EngineConfig, {"gpu_memory_utilization": 1.0}, InvalidSettingError, "less than 1"),
    (EngineConfig, {"kv_cache_bytes": -1}, InvalidSettingError, "kv_cache_bytes=-1"),
    (EngineConfig, {"seed": True}, InvalidSettingError, "seed=True"),
    (EngineConfig, {"echo_fault": {"action": "boom"}}, InvalidSettingError, "action='boom'"),
    (EngineConfig, {"reshard_checkpoint_path": "/a\0b"}, InvalidSettingError, "an absolute path"),
    (EngineConfig, {"hf_home": Path("/x")}, InvalidSettingError, "hf_home"),
    (GenerationConfig, {"temperature": NAN}, InvalidSettingError, "temperature=nan"),
    (GenerationConfig, {"repetition_penalty": -1.0}, InvalidSettingError, "repetition_penalty=-1.0"),
    (GenerationConfig, {"min_new_tokens": 51}, InvalidSettingError, "at most max_new_tokens=50"),
    (GangConfig, {"step_timeout_s": -1.0}, InvalidSettingError, "step_timeout_s=-1.0"),
    (GangConfig, {"start_timeout_s": INFINITY}, InvalidSettingError, "a finite number"),
    (RecoveryConfig, {"max_error_rate": NAN}, InvalidSettingError, "max_error_rate=nan"),
    (RecoveryConfig, {"max_error_rate": 1.0}, InvalidSettingError, "less than 1"),
    (RecoveryConfig, {"max_restarts": -1}, InvalidSettingError, "max_restarts=-1"),
    (RecoveryConfig, {"on_error": "ignore"}, InvalidSettingError, "'row' or 'raise'"),
    (EchoFault, {"rank": -1}, InvalidSettingError, "rank=-1"),
]

# Input files of the command line that cannot be read, and words of the error.
FILES: list[tuple[str, bytes, str]] = [
    ("broken.jsonl", b'{"prompt": "a"}\n{"prompt": "b\n', "line 2 is not jsonl"),
    ("two.jsonl", b'{"prompt": "a"}{"prompt": "b"}\n', "line 1 is not jsonl (Extra data"),
    ("python.jsonl", b"{'prompt': 'a'}\n", "line 1 is not jsonl"),
    ("null.jsonl", b"null\n", "expected an object, got NoneType"),
    ("control.jsonl", b'{"prompt": "a\x01b"}\n', "Invalid control character"),
    ("utf16.jsonl", '{"prompt": "a"}\n'.encode("utf-16"), "line 1 is not jsonl ('utf-8' codec"),
    ("zeros.jsonl", b"\0" * 100, "line 1 is not jsonl"),
    ("deep.jsonl", b'{"prompt": ' + b"[" * 100_000, "recursion"),
    ("digits.jsonl", b'{"id": ' + b"9" * 5000 + b"}\n", "5000 digits"),
    ("deep.json", b"[" * 100_000, "begins like a JSON array"),
    ("numbers.json", b'[{"prompt": "a"}, 2]', "element 1 of its array is not an object but int"),
    ("cut.json", b'[{"prompt": "a"},', "begins like a JSON array but is not one"),
    ("twice.csv", b"prompt,prompt\na,b\n", "the column 'prompt' more than once"),
    ("ragged.csv", b"prompt,id\na,1\nb\n", "line 3 is not csv (1 cells where the header has 2)"),
    ("quote.csv", b'prompt\n"open\n', "not csv"),
    ("mac.csv", b"prompt\ra\rb\r", "line 1 is not csv"),
    ("latin1.csv", "prompt\nä\n".encode("latin-1"), "line 2 is not csv"),
    ("latin1.txt", "one\nzwölf\n".encode("latin-1"), "line 2 is not txt"),
    ("empty.parquet", b"", "not readable as parquet"),
    ("text.parquet", b"PAR1 but no more", "not readable as parquet"),
    ("what.docx", b"x", "its suffix names no format"),
]


def read(**cells: Any) -> Request | BadRow:
    return read_row(0, Row(**cells), tokenizer=ByteTokenizer(), call=CALL, config=CONFIG)


def predictor(**config: Any) -> DeepSpeedPredictor:
    supervisor = InProcessSupervisor(2, **({"max_tokens": 64} | config))
    return DeepSpeedPredictor(supervisor, ByteTokenizer(), supervisor.group.spec)  # type: ignore[arg-type]


def cell(value: Any) -> Any:
    """A column of one cell, whatever that is."""
    column = np.empty(3, dtype=object)
    column[0], column[1], column[2] = None, value, None
    return column


def made_or_refused(make: Any, *args: Any, **kwargs: Any) -> Any:
    """What `make` gives; None if it raised one of our errors, with a message that one can read."""
    try:
        return make(*args, **kwargs)
    except RaydsinferError as error:
        message = str(error)
    assert 0 < len(message) < LONGEST_MESSAGE
    return None


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(ROWS) + len(SETTINGS) + len(FILES) >= 60


@pytest.mark.parametrize(("cells", "kind", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_wrong_row_says_what_is_wrong_with_it(cells: dict[str, Any], kind: str, words: str) -> None:
    given = {"prompt": "fine", **cells} if "generation" in cells else cells
    row = read(**given)
    assert isinstance(row, BadRow)
    assert row.error.kind == kind
    assert words in str(row.error)
    assert len(str(row.error)) < LONGEST_MESSAGE


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_wrong_rows_take_no_good_one_with_them(batching: str) -> None:
    """All of the table in one batch, a good row between each two."""
    names = ("prompt", "messages", "generation")
    good = {"prompt": "fine"}
    given: list[dict[str, Any]] = [good]
    for _, cells, _, _ in ROWS:
        given += [good | cells if "generation" in cells else cells, good]
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in given], dtype=object) for name in names})
    with predictor(batching=batching, max_batch_size=8) as shared:
        out = shared.predict(frame, max_new_tokens=10)
    assert len(out) == len(given)
    assert set(out["output"][::2]) == {"fine"}
    assert set(out["error"][::2]) == {""}
    assert [error.split(":")[0] for error in out["error"][1::2]] == [kind for _, _, kind, _ in ROWS]
    assert set(out["finish_reason"][1::2]) == {"error"}
    pa.Table.from_pandas(out)  # every message can be stored


@pytest.mark.parametrize("cells", [row[1] for row in FINE], ids=[row[0] for row in FINE])
def test_an_odd_row_is_answered(cells: dict[str, Any]) -> None:
    assert isinstance(read(**cells), Request)


@pytest.mark.parametrize(("cls", "values", "kind", "words"), SETTINGS)
def test_wrong_settings_are_named(
    cls: type[Settings], values: dict[str, Any], kind: type[RaydsinferError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        cls(**values)
    assert words in str(caught.value)
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize(("name", "content", "words"), FILES, ids=[name for name, _, _ in FILES])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_input(str(path), None, tmp_path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("damage", ["pages", "changed"])
def test_a_parquet_file_that_breaks_after_it_was_looked_at(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [f"prompt {i}" for i in range(1000)]}), path)
    found = open_input(str(path), None, tmp_path)
    if damage == "pages":
        content = path.read_bytes()
        path.write_bytes(content[:20] + b"\xff" * 200 + content[220:])
    else:
        pq.write_table(pa.table({"prompt": ["only one"]}), path)
    (part,) = found.slices(1000)
    with pytest.raises(InputError, match=r"not readable as parquet|it changed while it was read"):
        read_slice(part.path, found.format, part.start, part.num_rows, ["prompt"])


def test_a_text_file_that_loses_lines_after_it_was_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("one\ntwo\nthree\n")
    found = open_input(str(path), None, tmp_path)
    path.write_text("one\n")
    (part,) = found.slices(10)
    with pytest.raises(InputError, match="it changed while it was read: 1 of 3 rows"):
        read_slice(part.path, found.format, part.start, part.num_rows, ["prompt"])


def test_columns_of_one_name_in_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), path)
    with pytest.raises(InputError, match="the column 'prompt' more than once"):
        open_input(str(path), None, tmp_path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none.txt", "no such file"),
        ("a\0b.txt", "no such file"),
        ("*.csv", "no files there"),
        ("nosuch://bucket/x.txt", "Protocol not known"),
        ("dangling.txt", "no such file"),
        ("http://127.0.0.1:9/x.txt", "cannot be read"),
    ],
)
def test_inputs_that_are_not_there(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    with pytest.raises(InputError, match=words):
        open_input(path if "://" in path else str(tmp_path / path), None, tmp_path)


def test_no_error_shows_what_gives_access_to_an_input(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_input("http://me:hunter2@127.0.0.1:9/x.txt?signature=abcdef", None, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def wrong_data() -> list[tuple[str, Any, dict[str, Any], type[RaydsinferError], str]]:
    """Batches that no row of could be answered, and calls that no batch could."""
    good = pa.table({"prompt": ["a"], "id": [1]})
    return [
        ("a list", ["a"], {}, InvalidSettingError, "a pandas DataFrame"),
        ("nothing", None, {}, InvalidSettingError, "a pandas DataFrame"),
        ("lists", {"prompt": ["a"]}, {}, InvalidSettingError, "an ndarray"),
        ("ragged", {"prompt": cell("a"), "id": np.arange(2)}, {}, InvalidSettingError, "the same number of rows"),
        ("fields", np.array([("a", 1)], dtype="U5,i4"), {}, InvalidSettingError, "an array without fields"),
        ("no columns", pd.DataFrame(), {}, MissingColumnError, "the data has: none"),
        ("other columns", pa.table({"x": ["a"]}), {}, MissingColumnError, "the data has: 'x'"),
        ("numbered columns", pd.DataFrame([["a"]]), {}, InvalidSettingError, "data.rename"),
        ("twice", pd.DataFrame([["a", "b"]], columns=["prompt"] * 2), {}, InvalidSettingError, "one column of that"),
        ("twice in Arrow", pa.table([["a"], ["b"]], names=["prompt"] * 2), {}, InvalidSettingError, "Rename"),
        (
            "kept twice",
            pd.DataFrame([["a", 1, 2]], columns=["prompt", "id", "id"]),
            {"keep_columns": ["id"]},
            InvalidSettingError,
            "'id'",
        ),
        ("keep a text", good, {"keep_columns": "id"}, InvalidSettingError, "Write ['id']"),
        ("keep a number", good, {"keep_columns": 3}, InvalidSettingError, "a list of names"),
        ("keep what is not there", good, {"keep_columns": ["x"]}, MissingColumnError, "'prompt', 'id'"),
        ("keep an output", good.append_column("error", [["x"]]), {"keep_columns": ["error"]}, InvalidSettingError, "R"),
        ("read what is not there", good, {"feature_columns": [1]}, MissingColumnError, "column 1"),
        ("an unknown setting", good, {"temprature": 1.0}, UnknownSettingError, "Did you mean 'temperature'"),
        ("a setting out of range", good, {"max_new_tokens": 64}, InvalidSettingError, "max_tokens=64"),
    ]


@pytest.mark.parametrize(
    ("data", "kwargs", "kind", "words"), [case[1:] for case in wrong_data()], ids=[case[0] for case in wrong_data()]
)
def test_batches_and_calls_that_cannot_be(
    data: Any, kwargs: dict[str, Any], kind: type[RaydsinferError], words: str
) -> None:
    with predictor() as shared, pytest.raises(kind) as caught:
        shared.predict(data, **({"max_new_tokens": 10} | kwargs))
    assert words in str(caught.value)


def not_utf8() -> Any:
    """An Arrow column of texts, the second of which is no UTF-8, as some writers make them."""
    ends, texts = np.array([0, 4, 6, 10], dtype="int32"), b"fine\xff\xfefine"
    return pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(texts)])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (not_utf8(), "not readable"),
        (pa.array(["fine", None, "fine"]).dictionary_encode(), "missing"),
        (pa.array(["fine", "", "fine"], pa.large_string()), "empty"),
        (pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array(["fine"] * 3), pa.array([1] * 3)]), "1"),
    ],
)
def test_cells_of_arrow_that_are_no_text(column: Any, words: str) -> None:
    with predictor() as shared:
        out = shared.predict(pa.table({"prompt": column}), max_new_tokens=10).to_pydict()
    assert out["output"] == ["fine", "", "fine"]
    assert words in out["error"][1]


@pytest.mark.parametrize(
    "column", [pa.array([b"a"]), pa.nulls(1), pa.array([2**62]).cast(pa.timestamp("s")), pa.array([[1]]), pa.array([1])]
)
def test_columns_of_arrow_that_are_no_text(column: Any) -> None:
    with predictor() as shared:
        out = shared.predict(pa.table({"prompt": column})).to_pydict()
    assert out["error"][0].startswith("prompt: ")


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (None, InvalidSettingError, "model=None"),
        (5, InvalidSettingError, "as text"),
        (b"model", InvalidSettingError, "as text"),
        ("x" * 5000, CheckpointNotFoundError, "longer than any path"),
        ("a\0b", CheckpointNotFoundError, "no such directory"),
        ("owner/na me", CheckpointNotFoundError, "named owner/name"),
        ("/dev/null", CheckpointNotFoundError, "not a directory"),
        ("s3://", CheckpointError, "cannot be read"),
        ("nosuch://x", CheckpointError, "nothing installed here knows"),
    ],
)
def test_models_that_cannot_be(model: Any, kind: type[RaydsinferError], words: str) -> None:
    with pytest.raises(kind) as caught:
        DeepSpeedCheckpoint.from_pretrained(model)
    assert words in str(caught.value)
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", CorruptCheckpointError),
        (b"\xff\xfe", CorruptCheckpointError),
        (b"null", CorruptCheckpointError),
        (b"[]", CorruptCheckpointError),
        (b"[" * 100_000, CorruptCheckpointError),
        (b'{"engine_config": "max_tokens"}', CorruptCheckpointError),
        (b'{"engine_config": [[1, 2]]}', CorruptCheckpointError),
        (b'{"engine_config": {}, "model": 5}', CorruptCheckpointError),
        (b'{"engine_config": {"max_tokens": NaN}}', InvalidSettingError),
        (b'{"engine_config": {"max_tokens": -5}}', InvalidSettingError),
        (b'{"engine_config": {"self": 1}}', UnknownSettingError),
    ],
)
def test_settings_beside_a_model_that_cannot_be_used(model: Path, content: bytes, kind: type[RaydsinferError]) -> None:
    (model / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(kind):
        DeepSpeedCheckpoint.from_directory(model)


def test_settings_beside_a_model_that_are_a_directory(model: Path) -> None:
    (model / SETTINGS_FILE).mkdir()
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        DeepSpeedCheckpoint.from_directory(model)


def command(*words: str) -> tuple[int, str]:
    """Exit code and messages of `raydsinfer generate`."""
    result = CliRunner().invoke(app, ["generate", *words], catch_exceptions=False)
    return result.exit_code, " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--temperature", "nan"], "temperature=nan"),
        (["--temperature", "-0.5"], "temperature=-0.5"),
        (["--top-p", "2"], "top_p=2.0"),
        (["--seed", "99999999999999999999"], "seed=99999999999999999999"),
        (["--max-new-tokens", "1e3"], "unable to parse string as an integer"),
        (["--stop-strings", ""], "non-empty"),
        (["--step-timeout-s", "0"], "step_timeout_s=0.0"),
        (["--max-tokens", "1"], "max_tokens=1"),
        (["--echo-fault", "[" * 100_000], "a JSON object"),
        (["--echo-fault", '{"self": 1}'], "no setting 'self'"),
        (["--batch-size", "-1"], "--batch-size=-1"),
        (["--num-worker-groups", "0"], "--num-worker-groups=0"),
        (["--prompt-column", ""], "the data has: 'prompt'"),
        (["--keep-columns", "prompt,\x00"], "the data has: 'prompt'"),
        (["--format", "\ud800"], "--format="),
    ],
)
def test_flags_that_cannot_be(tmp_path: Path, flags: list[str], words: str) -> None:
    (tmp_path / "p.txt").write_text("a\n")
    code, said = command("any", f"{tmp_path}/p.txt", f"{tmp_path}/o.jsonl", "--engine", "echo", *flags)
    assert code == 2
    assert words in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def test_rows_without_any_column_are_refused_not_lost(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("{}\n{}\n")
    code, said = command("any", f"{tmp_path}/p.jsonl", f"{tmp_path}/o.jsonl", "--engine", "echo")
    assert (code, "the data has: none" in said) == (2, True)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co"]), max_size=5)
    | st.binary(max_size=8)
    | st.decimals(allow_nan=True)
    | st.datetimes()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(lambda cells: np.array([*cells, None], dtype=object))
    ),
    max_leaves=8,
)
names = st.sampled_from([*GenerationConfig.model_fields, "self", "cls", "model_config", "values"])
own_settings = st.dictionaries(names | st.text(max_size=8), anything, max_size=4)
message = st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), anything, max_size=4)


def as_json(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON texts of values that JSON has, and cut ones."""
    texts = values.map(lambda value: json.dumps(value, default=str, skipkeys=True))
    return texts | st.tuples(texts, st.integers(0, 30)).map(lambda pair: pair[0][: pair[1]])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    prompt=anything,
    messages=anything | st.lists(message, max_size=3) | as_json(st.lists(message, max_size=3)),
    own=anything | own_settings | as_json(own_settings),
)
@example(prompt="a", messages=None, own={"self": 1})
@example(prompt="a", messages=None, own='{"__init__": 1}')
def test_any_row_is_a_request_or_a_bad_row_that_can_be_stored(prompt: Any, messages: Any, own: Any) -> None:
    row = read(prompt=prompt, messages=messages, generation=own)
    if isinstance(row, Request):
        assert 0 < len(row.token_ids) + row.generation.max_new_tokens <= CONFIG.max_tokens
    else:
        assert 0 < len(str(row.error)) < LONGEST_MESSAGE
        assert row.error.kind in ("prompt", "messages", "generation", "length")


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(prompts=st.lists(anything, min_size=1, max_size=5), own=st.lists(anything | own_settings, max_size=5))
def test_any_batch_is_answered_row_for_row(prompts: list[Any], own: list[Any]) -> None:
    given = [*prompts, "fine"]
    cells = [*own[: len(prompts)], *[None] * (len(given) - len(own[: len(prompts)]))]
    frame = pd.DataFrame({"prompt": pd.Series(given, dtype=object), "generation": pd.Series(cells, dtype=object)})
    with predictor(batching="static") as shared:
        out = shared.predict(frame, max_new_tokens=10)
    assert len(out) == len(given)
    assert out["output"].iloc[-1] == "fine"
    pa.Table.from_pandas(out, preserve_index=False)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60)
    | as_json(
        st.fixed_dictionaries(
            {},
            optional={
                "model": anything,
                "engine_config": anything
                | st.dictionaries(st.sampled_from([*EngineConfig.model_fields, "self"]), anything, max_size=3),
            },
        )
    ).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_settings_file_is_read_or_refused(model: Path, content: bytes) -> None:
    (model / SETTINGS_FILE).write_bytes(content)
    checkpoint = made_or_refused(DeepSpeedCheckpoint.from_directory, model)
    assert checkpoint is None or checkpoint.spec.config.trust_remote_code is False


@settings(deadline=None, max_examples=80)
@given(
    cls=st.sampled_from([EngineConfig, GenerationConfig, GangConfig, RecoveryConfig, EchoFault]),
    values=st.data(),
)
def test_any_settings_are_taken_or_refused(cls: type[Settings], values: st.DataObject) -> None:
    fields = st.sampled_from(list(cls.model_fields)) | st.text(max_size=12)
    given = values.draw(st.dictionaries(fields, anything, max_size=4))
    made = made_or_refused(cls, **given)
    assert made is None or set(given) <= set(cls.model_fields)
    assert made is None or cls(**made.model_dump()) == made


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), name=st.sampled_from(["f.jsonl", "f.json", "f.csv", "f.txt", "f.parquet"]))
@example(content=b'[{"\\ud800": 1}]', name="f.json")
@example(content=b'{"a": {}}\n{"a": {"b": null}}', name="f.jsonl")
def test_any_file_is_read_whole_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if (found := made_or_refused(open_input, str(path), None, tmp_path)) is None:
        return
    parts = found.slices(3)
    rows = [read_slice(part.path, found.format, part.start, part.num_rows, list(found.types)) for part in parts]
    assert sum(map(len, rows)) == found.num_rows


flags = st.sampled_from(
    [
        *["--temperature", "--top-k", "--seed", "--max-tokens", "--stop-strings", "--step-timeout-s", "--on-error"],
        *["--max-error-rate", "--batch-size", "--keep-columns", "--format", "--input-format", "--rejects", "--nope"],
    ]
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.floats().map(str) | st.integers().map(str)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.tuples(flags, words), min_size=1, max_size=3))
def test_any_flags_are_a_plan_or_a_usage_error(tmp_path: Path, said: list[tuple[str, str]]) -> None:
    """No input is there: whatever the flags are, nothing can start."""
    given = [f"{flag}={word}" for flag, word in said]
    code, text = command("any", f"{tmp_path}/none.txt", f"{tmp_path}/o.jsonl", "--engine", "echo", *given)
    assert code in (1, 2)
    assert "Traceback" not in text
