"""Columns: which are read, which come out, and what is said of those that are missing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raydsinfer.config import GenerationConfig
from raydsinfer.errors import InvalidSettingError, MissingColumnError
from raydsinfer.rows.answers import Answer, columns_of_call
from raydsinfer.rows.columns import InputColumns, kept_names, output_frame, output_schema, output_table
from raydsinfer.rows.request import Row

ANSWER = Answer(outputs=("a", "b"), finish_reasons=("stop", "length"), nums_output_tokens=(1, 2), num_prompt_tokens=3)
TWO = GenerationConfig(num_return_sequences=2, do_sample=True)
LOGPROBS = GenerationConfig(return_logprobs=True)


def test_columns_are_found_by_name() -> None:
    read = InputColumns().choose(["id", "prompt", "generation"], None, None)
    assert read.names == ["prompt", "generation"]
    rows = read.rows({"prompt": ["a", "b"], "generation": [None, {"seed": 1}]}, 2)
    assert rows == [Row(prompt="a"), Row(prompt="b", generation={"seed": 1})]


def test_feature_columns_hide_the_others() -> None:
    read = InputColumns().choose(["messages", "prompt", "generation"], ["prompt"], ["generation"])
    assert read.names == ["prompt"]


def test_other_names() -> None:
    columns = InputColumns(prompt="question", generation="settings")
    assert columns.choose(["question", "settings", "prompt"], None, None).names == ["question", "settings"]


def test_one_array_is_an_array_of_prompts() -> None:
    assert InputColumns().choose(["__value__"], None, None).names == ["__value__"]


@pytest.mark.parametrize(
    ("features", "kept", "words"),
    [
        (["text"], None, "feature_columns names column 'text', but the data has: 'id', 'prompt'"),
        (None, ["a", "b"], "keep_columns names columns 'a', 'b'"),
        (["id"], None, "prompt_column (there is no 'messages' either) names column 'prompt', but the data has: 'id'"),
    ],
)
def test_missing_columns_are_named_beside_those_there_are(
    features: list[str] | None, kept: list[str] | None, words: str
) -> None:
    with pytest.raises(MissingColumnError) as caught:
        InputColumns().choose(["id", "prompt"], features, kept)
    assert words in str(caught.value)


def test_a_text_is_no_list_of_names() -> None:
    with pytest.raises(InvalidSettingError, match=r"Write \['prompt'\]"):
        InputColumns().choose(["prompt"], "prompt", None)


def test_kept_columns_must_not_overwrite_the_output() -> None:
    assert kept_names(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(InvalidSettingError, match="Rename 'output' first"):
        kept_names(["id", "output"])
    assert kept_names(["logprobs"], GenerationConfig()) == ["logprobs"]
    with pytest.raises(InvalidSettingError, match="Rename 'logprobs' first"):
        kept_names(["logprobs"], LOGPROBS)
    assert kept_names(["num_attempts"], TWO) == ["num_attempts"]
    with pytest.raises(InvalidSettingError, match="Rename 'num_attempts' first"):
        kept_names(["num_attempts"], TWO, report_attempts=True)


@pytest.mark.parametrize("generation", [GenerationConfig(), TWO, LOGPROBS, TWO.replaced({"return_logprobs": True})])
@pytest.mark.parametrize("attempts", [False, True])
def test_the_schema_depends_on_the_call_only(generation: GenerationConfig, attempts: bool) -> None:
    schema = output_schema(generation, attempts)
    assert tuple(schema.names) == columns_of_call(generation, attempts)
    for answers in ([], [ANSWER], [ANSWER, ANSWER]):
        assert output_table(answers, generation, attempts).schema == schema
        frame = output_frame(answers, generation, index=None, report_attempts=attempts)
        assert list(frame.columns) == schema.names
        assert not attempts or frame["num_attempts"].dtype == "int64"


def test_several_sequences_are_lists() -> None:
    assert output_table([ANSWER], TWO).to_pylist() == [
        {
            "output": ["a", "b"],
            "finish_reason": ["stop", "length"],
            "num_prompt_tokens": 3,
            "num_output_tokens": [1, 2],
            "error": "",
        }
    ]
    assert output_schema(TWO).field("num_output_tokens").type == pa.list_(pa.int64())
    assert output_frame([], GenerationConfig(), index=None)["num_output_tokens"].dtype == "int64"


def test_log_probabilities_are_small_floats() -> None:
    assert output_schema(LOGPROBS).field("logprobs").type == pa.list_(pa.float32())
    of_two = output_schema(TWO.replaced({"return_logprobs": True})).field("logprobs").type
    assert of_two == pa.list_(pa.list_(pa.float32()))


@pytest.mark.parametrize("num_return_sequences", [1, 2])
def test_a_frame_without_rows_has_the_columns_kinds_of_one_with_rows(num_return_sequences: int) -> None:
    call = GenerationConfig(do_sample=True, num_return_sequences=num_return_sequences, return_logprobs=True)
    answer = Answer(outputs=("a", "b"), finish_reasons=("stop", "stop"), nums_output_tokens=(1, 1), num_prompt_tokens=1)
    empty, full = output_frame([], call, index=[]), output_frame([answer], call, index=[7])
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert full.index.tolist() == [7]
