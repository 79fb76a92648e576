"""Rows: whatever a cell holds, a row becomes a request or a bad row, and says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.errors import UnsupportedError
from raydsinfer.rows.request import BadRow, Request, Row, is_missing, read_row

CONFIG = EngineConfig(engine="echo", max_tokens=64, max_batch_size=8)
CALL = GenerationConfig(max_new_tokens=10)


def read(config: EngineConfig = CONFIG, call: GenerationConfig = CALL, **cells: Any) -> Request | BadRow:
    return read_row(0, Row(**cells), tokenizer=ByteTokenizer(), call=call, config=config)


def bad(**cells: Any) -> str:
    row = read(**cells)
    assert isinstance(row, BadRow), row
    return str(row.error)


def generation(value: Any, call: GenerationConfig = CALL) -> GenerationConfig:
    row = read(prompt="hi", generation=value, call=call)
    assert isinstance(row, Request), row
    return row.generation


def test_a_prompt_becomes_its_tokens() -> None:
    row = read(prompt="hä")
    assert row == Request(index=0, token_ids=tuple("hä".encode()), prompt="hä", generation=CALL)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT])
def test_missing_values(missing: object) -> None:
    assert is_missing(missing)
    assert bad(prompt=missing) == "prompt: the prompt is missing"
    assert generation(missing) == CALL


@pytest.mark.parametrize("present", ["", 0, False, [], {}, np.array([1, 2]), [None]])
def test_values_that_are_not_missing(present: object) -> None:
    assert not is_missing(present)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        (3, "expected text, got 3 (int)"),
        (b"bytes", "expected text, got b'bytes' (bytes)"),
        ({"a": 1}, "(dict)"),
        (["a"], "(list)"),
        ("\ud800", "cannot be tokenised"),
        (np.arange(1000), "…"),
    ],
)
def test_prompts_that_are_not_text(prompt: object, words: str) -> None:
    assert words in bad(prompt=prompt)


def test_a_prompt_without_tokens_is_bad() -> None:
    class Nothing(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            return []

    row = read_row(0, Row(prompt="x"), tokenizer=Nothing(), call=CALL, config=CONFIG)
    assert isinstance(row, BadRow)
    assert "no tokens" in str(row.error)


def test_prompt_and_new_tokens_share_max_tokens() -> None:
    assert isinstance(read(prompt="x" * 54), Request)
    row = read(prompt="x" * 55)
    assert isinstance(row, BadRow)
    assert row.error.kind == "length"
    assert row.num_prompt_tokens == 55
    for number in ("55", "10", "65", "64"):
        assert number in row.error.reason


def test_messages_go_through_the_chat_template() -> None:
    row = read(messages=[{"role": "user", "content": "hi"}], prompt="not this")
    assert isinstance(row, Request)
    assert row.prompt == "user: hi\nassistant: "
    assert bytes(row.token_ids).decode() == row.prompt


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "hi"}],
        np.array([{"role": "user", "content": "hi"}], dtype=object),
        ({"role": "user", "content": "hi", "name": None},),
        '[{"role": "user", "content": "hi"}]',
    ],
)
def test_messages_in_the_forms_that_files_give(messages: object) -> None:
    row = read(messages=messages)
    assert isinstance(row, Request)
    assert row.prompt.startswith("user: hi")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no message"),
        ("[", "not JSON"),
        ("hello", "not JSON"),
        ('"hello"', "expected a list"),
        (7, "expected a list of messages, got 7 (int)"),
        (["hi"], "message 0 is not a mapping"),
        ([{"role": "user"}], "message 0 needs a text as 'content', got nothing"),
        ([{"role": "user", "content": "a"}, {"role": 1, "content": "b"}], "message 1 needs a text as 'role', got 1"),
        ([{"role": "user", "content": None}], "needs a text as 'content', got None"),
    ],
)
def test_bad_messages(messages: object, words: str) -> None:
    text = bad(messages=messages)
    assert text.startswith("messages: ")
    assert words in text


def test_a_model_without_chat_template_makes_bad_rows() -> None:
    class NoTemplate(ByteTokenizer):
        def encode_chat(self, messages: Any) -> list[int]:
            raise UnsupportedError(what="a messages column", why="no chat template", instead="Use prompts.")

    row = read_row(
        0, Row(messages=[{"role": "user", "content": "x"}]), tokenizer=NoTemplate(), call=CALL, config=CONFIG
    )
    assert isinstance(row, BadRow)
    assert "no chat template" in str(row.error)


@pytest.mark.parametrize("value", [{}, "", "  ", "null", "{}", {"max_new_tokens": None}, {"temperature": float("nan")}])
def test_settings_that_say_nothing(value: object) -> None:
    assert generation(value) == CALL


@pytest.mark.parametrize(
    "value",
    [
        {"max_new_tokens": 5, "stop_strings": ["x"], "temperature": None},
        {"max_new_tokens": 5.0, "stop_strings": np.array(["x"], dtype=object)},
        {"max_new_tokens": np.int64(5), "stop_strings": ["x"]},
        '{"max_new_tokens": 5, "stop_strings": ["x"]}',
    ],
)
def test_settings_in_the_forms_that_files_give(value: object) -> None:
    assert generation(value) == GenerationConfig(max_new_tokens=5, stop_strings=["x"])


@pytest.mark.parametrize("column", ["generation", "messages"])
def test_json_that_is_nested_too_deeply_is_a_bad_row(column: str) -> None:
    row = Row(prompt="a", **{column: "[" * 200_000})
    bad = read_row(0, row, tokenizer=ByteTokenizer(), call=GenerationConfig(), config=EngineConfig(engine="echo"))
    assert isinstance(bad, BadRow)
    assert bad.error.kind == column


def test_a_row_changes_only_what_it_names() -> None:
    call = GenerationConfig(max_new_tokens=10, do_sample=True, temperature=0.5)
    assert generation({"temperature": 2}, call) == GenerationConfig(max_new_tokens=10, do_sample=True, temperature=2.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"max_new_tokns": 5}, "Did you mean 'max_new_tokens'?"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many'"),
        ({"do_sample": 1}, "do_sample"),
        ({"max_new_tokens": 64}, "less than EngineConfig.max_tokens=64"),
        ({"num_beams": 9}, "at most EngineConfig.max_batch_size=8"),
        ({"num_return_sequences": 2, "do_sample": True}, "pass it to predict()"),
        ({"return_logprobs": True}, "batching='auto'"),
        ({1: 2}, "setting names are texts"),
        ([("max_new_tokens", 5)], "expected settings by name"),
        ("{", "not JSON"),
        ("[1]", "expected settings by name"),
        (5, "expected settings by name, got 5 (int)"),
    ],
)
def test_bad_settings(value: object, words: str) -> None:
    text = bad(prompt="hi", generation=value)
    assert text.startswith("generation: ")
    assert words in text


def test_a_row_may_ask_for_another_number_of_sequences_when_the_call_returns_lists() -> None:
    call = GenerationConfig(max_new_tokens=10, do_sample=True, num_return_sequences=2)
    assert generation({"num_return_sequences": 4}, call).num_return_sequences == 4
    assert generation({"num_return_sequences": 1}, call).num_return_sequences == 1


def test_a_row_alone_has_no_log_probabilities() -> None:
    continuous, own = CONFIG.replaced({"batching": "continuous"}), {"return_logprobs": True}
    row = read(continuous, prompt="hi", generation=own)
    assert isinstance(row, BadRow)
    assert "makes a column: pass it to predict()" in str(row.error)
    assert isinstance(read(continuous, CALL.replaced(own), prompt="hi", generation=own), Request)


cells = st.one_of(
    st.none(),
    st.text(max_size=70),
    st.integers(),
    st.floats(),
    st.binary(max_size=5),
    st.lists(st.one_of(st.text(max_size=5), st.dictionaries(st.text(max_size=8), st.text(max_size=5))), max_size=3),
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(GenerationConfig.model_fields)), st.text(max_size=8)),
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3))
        ),
        max_size=3,
    ),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=4).map(json.dumps),
    st.just(np.array(["a", None], dtype=object)),
    st.just(pd.NA),
)


@given(index=st.integers(0, 10), prompt=cells, messages=cells, own=cells)
def test_any_row_is_a_request_within_limits_or_a_bad_row(
    index: int, prompt: object, messages: object, own: object
) -> None:
    row = Row(prompt=prompt, messages=messages, generation=own)
    result = read_row(index, row, tokenizer=ByteTokenizer(), call=CALL, config=CONFIG)
    assert result.index == index
    if isinstance(result, Request):
        assert 0 < len(result.token_ids) <= CONFIG.max_tokens - result.generation.max_new_tokens
        assert result.generation.num_return_sequences == 1
    else:
        assert result.error.kind in {"prompt", "messages", "generation", "length"}
        assert result.error.reason
