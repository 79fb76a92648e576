import numpy as np
import pyarrow as pa

from raydsinfer.cli.progress import Pace, duration
from raydsinfer.cli.results import Tally, conformed, result_schema
from raydsinfer.cli.summary import Summary
from raydsinfer.config import GenerationConfig

ANSWERS = {
    "output": ["a", "", ""],
    "finish_reason": ["stop", "error", "error"],
    "num_prompt_tokens": [3, 0, 900],
    "num_output_tokens": [2, 0, 0],
    "error": ["", "prompt: the prompt is empty", "length: 900 prompt tokens and …"],
}


def test_kept_columns_come_first_and_mixed_ones_become_text() -> None:
    schema = result_schema({"id": pa.int64(), "x": None, "gap": pa.null()}, ["x", "id", "gap"], GenerationConfig())
    assert schema.names[:4] == ["x", "id", "gap", "output"]
    block = pa.table(
        {"id": [1.0, None, 3.0], "x": pa.array([1, None, 3]), "gap": pa.nulls(3), "extra": [0, 0, 0], **ANSWERS}
    )
    table = conformed(block, schema, ["x"])
    assert table.schema == schema
    assert table.column("id").to_pylist() == [1, None, 3]
    assert table.column("x").to_pylist() == ["1", None, "3"]


def test_several_sequences_make_lists() -> None:
    generation = GenerationConfig(num_return_sequences=2, do_sample=True)
    schema = result_schema({}, [], generation)
    assert schema.field("output").type == pa.list_(pa.string())
    row = {"output": [["a", "b"]], "finish_reason": [["stop", "stop"]], "num_prompt_tokens": [1],
           "num_output_tokens": [np.array([4, 5])], "error": [""]}  # fmt: skip
    tally = Tally()
    tally.add(conformed(pa.table(row), schema, []))
    assert (tally.num_rows, tally.num_output_tokens) == (1, 9)


def test_tally_counts_errors_by_kind() -> None:
    tally = Tally()
    for _ in range(2):
        tally.add(conformed(pa.table(ANSWERS), result_schema({}, [], GenerationConfig()), []))
    assert (tally.num_rows, tally.num_errors, dict(tally.errors)) == (6, 4, {"prompt": 2, "length": 2})
    assert (tally.num_prompt_tokens, tally.num_output_tokens) == (1806, 4)


def test_rows_of_an_earlier_run_do_not_make_this_one_faster() -> None:
    tally = Tally()
    tally.add(conformed(pa.table(ANSWERS), result_schema({}, [], GenerationConfig()), []), [True, False, True])
    assert (tally.num_stored, tally.num_stored_tokens) == (2, 2)
    pace = Pace(11, tally, 4.0, num_restarts=2)
    assert (pace.tokens_per_s, pace.left_s) == (0.0, 32.0)
    assert str(pace) == "0.0 tokens/s, 32.0 s left, 2 error rows, 2 restarts"


def test_pace() -> None:
    tally = Tally(num_rows=25, num_output_tokens=500)
    pace = Pace(100, tally, 10.0)
    assert (pace.tokens_per_s, pace.left_s) == (50.0, 30.0)
    assert str(pace) == "50.0 tokens/s, 30.0 s left"
    nothing = Pace(100, Tally(), 0.0)
    assert (nothing.tokens_per_s, nothing.left_s) == (0.0, None)


def test_durations() -> None:
    assert [duration(s) for s in (0.04, 59.94, 185, 7800)] == ["0.0 s", "59.9 s", "3 min 5 s", "2 h 10 min"]


def test_summary_lines() -> None:
    tally = Tally()
    tally.add(conformed(pa.table(ANSWERS), result_schema({}, [], GenerationConfig()), []))
    lines = dict(Summary(output="o.csv", tally=tally, start_up_s=3.0, generation_s=0.5).lines())
    assert lines["error rows"] == "2 (prompt: 1, length: 1)"
    assert (lines["rows"], lines["tokens per second"], lines["start-up"]) == ("3", "4.0", "3.0 s")
    assert not {"kept in", "rejects", "restarts"} & lines.keys()
    more = Summary(
        output="-", tally=tally, start_up_s=0, generation_s=1, num_restarts=1, kept_in="o.run", rejects="r.csv"
    )
    expected = {"rows": "3 (0 done before)", "kept in": "o.run", "rejects": "r.csv", "restarts": "1"}
    assert expected.items() <= dict(more.lines()).items()
