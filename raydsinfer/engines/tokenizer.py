"""Text to token ids and back, by the kind of engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import CheckpointError, UnsupportedError


class Tokenizer(Protocol):
    """What the predictor needs of a tokenizer; needs no torch."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the model expects."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation under the model's chat template, open for the assistant.

        Raises:
            UnsupportedError: The model has no chat template.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        ...


class ByteTokenizer:
    """One token a UTF-8 byte: the echo engine's tokenizer, which needs no model."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return self.encode("".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: ")

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < 256).decode(errors="replace")


class HuggingFaceTokenizer:
    """A `transformers` tokenizer.

    Args:
        path: Directory that holds the tokenizer's files.
        trust_remote_code: Whether code in that directory may run.

    Raises:
        CheckpointError: The directory has no usable tokenizer.
    """

    def __init__(self, path: str, *, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer

        try:
            self.hf = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=trust_remote_code)
            self._num_embeddings = _num_embeddings(Path(path))
        except Exception as error:  # transformers raises OSError, ValueError, KeyError, TypeError, …
            raise CheckpointError(
                path=path,
                reason=f"no usable tokenizer ({type(error).__name__}: {error})",
                hint="Save one beside the weights with tokenizer.save_pretrained(directory).",
            ) from error

    def encode(self, text: str) -> list[int]:
        return self._known(self.hf(text)["input_ids"])

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if not self.hf.chat_template:
            raise UnsupportedError(
                what="a messages column",
                why="the model's tokenizer has no chat template",
                instead="Use a prompt column, or a model that was tuned for chat.",
            )
        text = self.hf.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
        return self._known(self.hf(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.hf.decode(list(token_ids), skip_special_tokens=True))

    def decode_whole(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens included."""
        return str(self.hf.decode(list(token_ids), skip_special_tokens=False))

    def _known(self, token_ids: Sequence[int]) -> list[int]:
        # A token that the model has no embedding for would take the whole batch down with it.
        if self._num_embeddings is not None and max(token_ids, default=0) >= self._num_embeddings:
            raise ValueError(f"token {max(token_ids)} is beyond the model's {self._num_embeddings} embeddings")
        return list(token_ids)


def _num_embeddings(directory: Path) -> int | None:
    """`vocab_size` of the model beside the tokenizer; None if there is no model or it does not say."""
    path = directory / "config.json"
    size = json.loads(path.read_text()).get("vocab_size") if path.is_file() else None
    return size if isinstance(size, int) else None


def load_tokenizer(spec: EngineSpec) -> Tokenizer:
    """The tokenizer that fits an engine.

    Args:
        spec: Model and settings; a model that is not on this node yet is fetched.

    Raises:
        CheckpointError: There is no such model, or it has no usable tokenizer.
    """
    if spec.config.engine == "echo":
        return ByteTokenizer()
    from raydsinfer.checkpoints.sources.fetch import local_directory

    path = local_directory(spec.model, revision=spec.config.revision, hf_home=spec.config.hf_home, weights=False)
    return HuggingFaceTokenizer(str(path), trust_remote_code=spec.config.trust_remote_code)
