"""A tokenizer that several threads share is used by one of them at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raydsinfer.engines.tokenizer import ByteTokenizer
from raydsinfer.serving.shared_tokenizer import SharedTokenizer


class Delicate(ByteTokenizer):
    """Breaks when two threads are in it."""

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def encode(self, text: str) -> list[int]:
        return self._alone(super().encode(text))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return super().encode_chat(messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._alone(super().decode(token_ids)))

    def _alone(self, result: Any) -> Any:
        assert self._busy.acquire(blocking=False)
        time.sleep(0.0005)
        self._busy.release()
        return result


def test_one_thread_at_a_time() -> None:
    shared = SharedTokenizer(Delicate())
    texts = [f"text {i}" for i in range(40)]
    messages = [{"role": "user", "content": "hi"}]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: shared.decode(shared.encode(text)), texts)) == texts
        chats = list(pool.map(lambda _: shared.encode_chat(messages), texts))
    assert bytes(chats[0]) == b"user: hi\nassistant: "
    assert chats == chats[:1] * 40
