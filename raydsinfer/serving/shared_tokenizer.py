"""A tokenizer for several threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from raydsinfer.engines.tokenizer import Tokenizer


class SharedTokenizer:
    """Lets one thread at a time use a tokenizer.

    Those of transformers keep state while they work, and a model may bring its own: none promises to stand two
    threads at once. One thread makes tokens faster than any GPU.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def encode(self, text: str) -> list[int]:
        with self._lock:
            return self._tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        with self._lock:
            return self._tokenizer.encode_chat(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        with self._lock:
            return self._tokenizer.decode(token_ids)
