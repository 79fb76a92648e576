"""From an engine's completions to the output columns: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion
from raydsinfer.engines.tokenizer import Tokenizer
from raydsinfer.errors import RowError
from raydsinfer.rows.request import BadRow, Request

OUTPUT_COLUMNS = ("output", "finish_reason", "num_prompt_tokens", "num_output_tokens", "error")
LOGPROBS_COLUMN = "logprobs"
"""Comes after the others, in calls with `return_logprobs`."""

ATTEMPTS_COLUMN = "num_attempts"
"""Comes last, in calls that ask for it."""

LIST_COLUMNS = ("output", "finish_reason", "num_output_tokens", LOGPROBS_COLUMN)
"""Columns that hold a list a row, of an entry a sequence, when the call has `num_return_sequences` above 1."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes out for one row: an entry a returned sequence, or one for a bad row.

    Args:
        outputs: Completions.
        finish_reasons: ``stop``, ``length`` or ``error``.
        nums_output_tokens: Generated tokens, end-of-sequence tokens included.
        num_prompt_tokens: Tokens of the prompt.
        logprobs: Of each generated token the logarithm of its probability; empty where nobody asked for it.
        error: What is wrong with the row; empty if it is fine.
        num_attempts: Times that the gang worked on the row; 0 for one that never reached it.
    """

    outputs: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    nums_output_tokens: tuple[int, ...]
    num_prompt_tokens: int
    logprobs: tuple[tuple[float, ...], ...] = ((),)
    error: str = ""
    num_attempts: int = 0


def columns_of_call(generation: GenerationConfig, report_attempts: bool = False) -> tuple[str, ...]:
    """Names of the output columns: they depend on the call, never on the rows.

    Args:
        generation: Settings of the call.
        report_attempts: Whether it asks for `ATTEMPTS_COLUMN`.
    """
    logprobs = (LOGPROBS_COLUMN,) if generation.return_logprobs else ()
    return (*OUTPUT_COLUMNS, *logprobs, *((ATTEMPTS_COLUMN,) if report_attempts else ()))


def answer_bad_row(bad: BadRow) -> Answer:
    """The output of a row that never reached the engine."""
    return Answer(
        outputs=("",),
        finish_reasons=("error",),
        nums_output_tokens=(0,),
        num_prompt_tokens=bad.num_prompt_tokens,
        error=_writable(str(bad.error)),
    )


def answer_request(request: Request, completions: Sequence[Completion], tokenizer: Tokenizer) -> Answer:
    """The output of a row that was generated."""
    return Answer(
        outputs=tuple(_text(request, completion, tokenizer) for completion in completions),
        finish_reasons=tuple(completion.finish_reason for completion in completions),
        nums_output_tokens=tuple(len(completion.token_ids) for completion in completions),
        num_prompt_tokens=len(request.token_ids),
        logprobs=tuple(completion.logprobs for completion in completions),
    )


def answer_failed(request: Request, error: RowError) -> Answer:
    """The output of a row that the engine could not answer."""
    return answer_bad_row(BadRow(index=request.index, error=error, num_prompt_tokens=len(request.token_ids)))


def columns_of(
    answers: Sequence[Answer], generation: GenerationConfig, report_attempts: bool = False
) -> dict[str, list[Any]]:
    """Output columns, in the order of `columns_of_call`.

    Args:
        answers: In the order of the rows.
        generation: Settings of the call.
        report_attempts: Whether it asks for `ATTEMPTS_COLUMN`.
    """
    columns: dict[str, list[Any]] = {
        "output": [list(answer.outputs) for answer in answers],
        "finish_reason": [list(answer.finish_reasons) for answer in answers],
        "num_prompt_tokens": [answer.num_prompt_tokens for answer in answers],
        "num_output_tokens": [list(answer.nums_output_tokens) for answer in answers],
        "error": [answer.error for answer in answers],
        LOGPROBS_COLUMN: [[list(logprobs) for logprobs in answer.logprobs] for answer in answers],
        ATTEMPTS_COLUMN: [answer.num_attempts for answer in answers],
    }
    if generation.num_return_sequences == 1:
        columns |= {name: [cell[0] for cell in columns[name]] for name in LIST_COLUMNS}
    return {name: columns[name] for name in columns_of_call(generation, report_attempts)}


def cut_at_stop(text: str, stop_strings: Sequence[str], *, keep: bool) -> str:
    """The text up to the first stop string.

    Args:
        text: A completion.
        stop_strings: Texts that end it.
        keep: Whether the stop string itself stays.
    """
    # The one that ends first is the one that stopped the engine; of two that end there, the longer.
    found: Mapping[tuple[int, int], str] = {
        (text.find(stop) + len(stop), -len(stop)): stop for stop in stop_strings if stop in text
    }
    if not found:
        return text
    end, minus_length = min(found)
    return text[:end] if keep else text[: end + minus_length]


def _text(request: Request, completion: Completion, tokenizer: Tokenizer) -> str:
    generation = request.generation
    text = cut_at_stop(
        tokenizer.decode(completion.token_ids),
        generation.stop_list,
        keep=generation.include_stop_str_in_output,
    )
    return _writable(request.prompt + text if generation.return_full_text else text)


def _writable(text: str) -> str:
    # Half a surrogate pair is a Python string, but no file format and no Arrow column holds it.
    return text.encode("utf-8", "backslashreplace").decode()
