"""One row in, one request or one bad row out: pure, so that no row can take others with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.tokenizer import Tokenizer
from raydsinfer.errors import ConfigurationError, RowError
from raydsinfer.errors import shown as cut
from raydsinfer.rows.limits import check_generation, check_length

_SHOWN_CHARS = 60  # of a bad value in a message: enough to find it again in the data
_SAID_CHARS = 500  # of what a library said


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cells of one row that say what to generate, as Python values.

    Args:
        prompt: Text to continue.
        messages: Conversation to answer; where it is given, `prompt` is not looked at.
        generation: The row's own settings: a mapping, or the JSON text of one.
    """

    prompt: object = None
    messages: object = None
    generation: object = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A row that can be answered.

    Args:
        index: Position of the row in its batch.
        token_ids: Tokens of the prompt, never empty.
        prompt: Text of the prompt, for `return_full_text`.
        generation: Settings of the call and of the row together.
    """

    index: int
    token_ids: tuple[int, ...]
    prompt: str
    generation: GenerationConfig


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be answered.

    Args:
        index: Position of the row in its batch.
        error: What is wrong with it.
        num_prompt_tokens: Tokens of its prompt, 0 if it has none that could be read.
    """

    index: int
    error: RowError
    num_prompt_tokens: int = 0


def read_row(
    index: int, row: Row, *, tokenizer: Tokenizer, call: GenerationConfig, config: EngineConfig
) -> Request | BadRow:
    """Decide what a row asks for.

    Args:
        index: Position of the row in its batch.
        row: Its cells.
        tokenizer: Of the model.
        call: Settings that the row does not give itself.
        config: The engine's settings, for its limits.
    """
    num_prompt_tokens = 0
    try:
        generation = read_generation(row.generation, call=call, config=config)
        token_ids, prompt = _read_tokens(row, tokenizer)
        num_prompt_tokens = len(token_ids)
        check_length(num_prompt_tokens, generation, config)
    except RowError as error:
        return BadRow(index=index, error=error, num_prompt_tokens=num_prompt_tokens)
    return Request(index=index, token_ids=token_ids, prompt=prompt, generation=generation)


def read_generation(value: object, *, call: GenerationConfig, config: EngineConfig) -> GenerationConfig:
    """The settings of a row.

    Args:
        value: A mapping whose None values mean "not set", the JSON text of one, or a missing value.
        call: Settings of the call.
        config: The engine's settings, for its limits.

    Raises:
        RowError: The value is none of these, or a setting is wrong.
    """
    settings = read_settings(value)
    if not settings:
        return call
    try:
        generation = call.replaced(settings)
        check_generation(generation, config)
    except ConfigurationError as error:
        raise RowError(kind="generation", reason=str(error)) from error
    if generation.num_return_sequences > 1 and call.num_return_sequences == 1:
        reason = "num_return_sequences above 1 makes lists of the output columns: pass it to predict() for all rows"
        raise RowError(kind="generation", reason=reason)
    if generation.return_logprobs and not call.return_logprobs:
        raise RowError(kind="generation", reason="return_logprobs makes a column: pass it to predict() for all rows")
    return generation


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, NaT or pandas' NA."""
    if value is None or not pd.api.types.is_scalar(value):
        return value is None
    try:
        return bool(pd.isna(value))  # type: ignore[call-overload]
    except ArithmeticError:  # a decimal that raises when it is looked at
        return True


def read_settings(value: object) -> dict[str, Any]:
    """The settings that a row gives itself, by name and not yet checked; empty if it gives none.

    Raises:
        RowError: The value is not settings by name.
    """
    if isinstance(value, str):
        # CSV has no other way to leave a cell out than an empty one.
        value = _from_json(value, kind="generation") if value.strip() else None
    if is_missing(value):
        return {}
    if not isinstance(value, Mapping):
        raise RowError(kind="generation", reason=f"expected settings by name, got {shown(value)}")
    if strange := [name for name in value if not isinstance(name, str)]:
        raise RowError(kind="generation", reason=f"setting names are texts, got {shown(strange[0])}")
    return {name: _plain_cell(own, kind="generation") for name, own in value.items() if not is_missing(own)}


def _read_tokens(row: Row, tokenizer: Tokenizer) -> tuple[tuple[int, ...], str]:
    if not is_missing(row.messages):
        messages = read_messages(row.messages)
        token_ids = _encoded("messages", lambda: tokenizer.encode_chat(messages))
        return token_ids, tokenizer.decode(token_ids)
    if is_missing(row.prompt):
        raise RowError(kind="prompt", reason="the prompt is missing")
    if not isinstance(row.prompt, str):
        raise RowError(kind="prompt", reason=f"expected text, got {shown(row.prompt)}")
    prompt = str(row.prompt)
    if not prompt:
        raise RowError(kind="prompt", reason="the prompt is empty")
    return _encoded("prompt", lambda: tokenizer.encode(prompt)), prompt


def _encoded(kind: str, encode: Any) -> tuple[int, ...]:
    try:
        token_ids = tuple(encode())
    except Exception as error:  # tokenizers and chat templates raise what they like about a text
        said = str(error)[:_SAID_CHARS]  # some quote all of it
        raise RowError(kind=kind, reason=f"cannot be tokenised ({type(error).__name__}: {said})") from error
    if not token_ids:
        raise RowError(kind=kind, reason="has no tokens")
    return token_ids


def read_messages(value: object) -> list[dict[str, Any]]:
    """The messages of a conversation.

    Args:
        value: A list of mappings, or the JSON text of one.

    Raises:
        RowError: It is no conversation.
    """
    if isinstance(value, str):
        value = _from_json(value, kind="messages")
    value = _plain_cell(value, kind="messages")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(kind="messages", reason=f"expected a list of messages, got {shown(value)}")
    if not value:
        raise RowError(kind="messages", reason="the conversation has no message")
    return [_read_message(position, message) for position, message in enumerate(value)]


def _read_message(position: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RowError(kind="messages", reason=f"message {position} is not a mapping but {shown(message)}")
    for name in ("role", "content"):
        if not isinstance(message.get(name), str):
            given = shown(message[name]) if name in message else "nothing"
            raise RowError(kind="messages", reason=f"message {position} needs a text as {name!r}, got {given}")
    # Columns of structs give every message the fields that any message has: None is not a field.
    return {str(name): field for name, field in message.items() if not is_missing(field)}


def _from_json(text: str, *, kind: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(kind=kind, reason=f"not JSON ({error}): {shown(text)}") from error


def _plain_cell(value: object, *, kind: str) -> Any:
    try:
        return _plain(value)
    except RecursionError:
        raise RowError(kind=kind, reason="lists are nested too deeply") from None


def _plain(value: Any) -> Any:
    """Without numpy, and whole floats as integers: columns with gaps turn 50 into 50.0."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def shown(value: object) -> str:
    """A value and its type for a message, cut to a readable length."""
    return f"{cut(value, _SHOWN_CHARS)} ({type(value).__name__})"
