from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.tokenizer import ByteTokenizer, HuggingFaceTokenizer, load_tokenizer
from raydsinfer.errors import CheckpointError, UnsupportedError
from tests.models import write_tokenizer


def test_bytes_there_and_back() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode("Größe 7")) == "Größe 7"
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "hi"}])) == "user: hi\nassistant: "


def test_the_models_own_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(EngineSpec(model=str(tmp_path), config=EngineConfig()))
    ids = tokenizer.encode("Paris ist groß")
    assert tokenizer.decode([*ids, 2]) == "Paris ist groß"
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "hi"}])) == "user: hi\nassistant: "


def test_no_chat_template(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = HuggingFaceTokenizer(str(tmp_path))
    tokenizer.hf.chat_template = None
    with pytest.raises(UnsupportedError, match="no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "hi"}])


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        HuggingFaceTokenizer(str(tmp_path))


def test_tokens_that_the_model_has_no_embedding_for(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 50}')
    tokenizer = HuggingFaceTokenizer(str(tmp_path))
    assert tokenizer.encode("!!") == [3, 3]
    with pytest.raises(ValueError, match="beyond the model's 50 embeddings"):
        tokenizer.encode("zz")
