"""Answers: texts cut at stop strings, and columns whose shape depends on the call only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion
from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.errors import RowError
from raydsinfer.rows.answers import (
    ATTEMPTS_COLUMN,
    LIST_COLUMNS,
    LOGPROBS_COLUMN,
    OUTPUT_COLUMNS,
    Answer,
    answer_bad_row,
    answer_failed,
    answer_request,
    columns_of,
    cut_at_stop,
)
from raydsinfer.rows.request import BadRow, Request


def answer(text: str, **generation: object) -> Answer:
    request = Request(index=0, token_ids=(1, 2), prompt="Say: ", generation=GenerationConfig(**generation))
    return answer_request(request, [Completion(tuple(text.encode()), "stop")], ByteTokenizer())


@pytest.mark.parametrize(
    ("stops", "kept", "cut"),
    [
        ([], "one. two. three", "one. two. three"),
        (["."], "one.", "one"),
        (["two", "."], "one.", "one"),
        (["nothing"], "one. two. three", "one. two. three"),
        (["e. ", "one. "], "one. ", ""),
        ([" two. ", "wo"], "one. two", "one. t"),
    ],
)
def test_a_text_ends_at_the_stop_string_that_is_complete_first(stops: list[str], kept: str, cut: str) -> None:
    text = "one. two. three"
    assert cut_at_stop(text, stops, keep=True) == kept
    assert cut_at_stop(text, stops, keep=False) == cut


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_nothing_of_a_stop_string_is_left(text: str, stops: list[str]) -> None:
    cut = cut_at_stop(text, stops, keep=False)
    kept = cut_at_stop(text, stops, keep=True)
    assert text.startswith(kept)
    assert kept.startswith(cut)
    assert not any(stop in cut for stop in stops)
    assert (kept == text and cut == text) or any(kept == cut + stop for stop in stops)


def test_stop_strings_are_cut_unless_they_should_stay() -> None:
    assert answer("yes. no", stop_strings=".").outputs == ("yes",)
    assert answer("yes. no", stop_strings=".", include_stop_str_in_output=True).outputs == ("yes.",)
    assert answer("yes", return_full_text=True).outputs == ("Say: yes",)
    assert answer("yes. no", return_full_text=True, stop_strings=[":", "."]).outputs == ("Say: yes",)


def test_tokens_are_counted_as_generated() -> None:
    counted = answer("yes. no", stop_strings=".")
    assert (counted.num_prompt_tokens, counted.nums_output_tokens, counted.finish_reasons) == (2, (7,), ("stop",))


def test_columns_have_one_shape_for_all_rows() -> None:
    bad = answer_bad_row(BadRow(index=1, error=RowError(kind="length", reason="too long"), num_prompt_tokens=99))
    flat = columns_of([answer("a"), bad], GenerationConfig())
    assert tuple(flat) == OUTPUT_COLUMNS
    assert flat == {
        "output": ["a", ""],
        "finish_reason": ["stop", "error"],
        "num_prompt_tokens": [2, 99],
        "num_output_tokens": [1, 0],
        "error": ["", "length: too long"],
    }
    several = GenerationConfig(num_return_sequences=2, do_sample=True, return_logprobs=True)
    lists = columns_of([answer("a"), bad], several)
    assert tuple(lists) == (*OUTPUT_COLUMNS, LOGPROBS_COLUMN)
    assert all(isinstance(cell, list) for name in LIST_COLUMNS for cell in lists[name])
    assert lists["finish_reason"] == [["stop"], ["error"]]
    assert lists["num_prompt_tokens"] == [2, 99]


def test_half_a_surrogate_pair_in_an_error_can_be_written() -> None:
    bad = answer_bad_row(BadRow(index=0, error=RowError(kind="prompt", reason="\ud800")))
    assert bad.error.encode() == b"prompt: \\ud800"


def test_log_probabilities_are_a_list_a_row_where_the_call_asks_for_them() -> None:
    request = Request(index=0, token_ids=(1,), prompt="", generation=GenerationConfig())
    row = answer_request(request, [Completion(tuple(b"ab"), "stop", (-0.5, -1.0))], ByteTokenizer())
    bad = answer_bad_row(BadRow(index=1, error=RowError(kind="prompt", reason="empty")))
    assert LOGPROBS_COLUMN not in columns_of([row, bad], GenerationConfig())
    assert columns_of([row, bad], GenerationConfig(return_logprobs=True))["logprobs"] == [[-0.5, -1.0], []]


def test_a_row_that_the_engine_refuses_says_why() -> None:
    request = Request(index=3, token_ids=(1, 2), prompt="", generation=GenerationConfig())
    refused = answer_failed(request, RowError(kind="engine", reason="does not fit"))
    assert (refused.error, refused.finish_reasons, refused.num_prompt_tokens) == ("engine: does not fit", ("error",), 2)


def test_attempts_are_the_last_column_for_who_asks() -> None:
    request = Request(index=3, token_ids=(1, 2), prompt="", generation=GenerationConfig())
    killed = replace(answer_failed(request, RowError(kind="gang", reason="it died")), num_attempts=9)
    columns = columns_of([answer("a"), killed], GenerationConfig(return_logprobs=True), report_attempts=True)
    assert list(columns)[-1] == ATTEMPTS_COLUMN
    assert columns[ATTEMPTS_COLUMN] == [0, 9]
    assert ATTEMPTS_COLUMN not in columns_of([killed], GenerationConfig())
