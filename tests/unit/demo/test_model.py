from pathlib import Path

import pytest

from raydsinfer.demo import model
from raydsinfer.errors import CheckpointError


def test_without_the_package_the_model_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "_PACKAGE", "no_such_package")
    assert model.demo_model(tmp_path) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert list(tmp_path.iterdir()) == []


def test_what_was_converted_is_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    gguf = tmp_path / "package" / "model.gguf"
    gguf.write_bytes(b"not a model")
    monkeypatch.setattr(model, "packaged_gguf", lambda: gguf)
    done = tmp_path / "cache" / "SmolLM2-135M-Instruct"
    done.mkdir(parents=True)
    assert model.demo_model(tmp_path / "cache") == str(done)


def test_a_broken_file_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gguf, cache = tmp_path / "model.gguf", tmp_path / "cache"
    gguf.write_bytes(b"not a model")
    monkeypatch.setattr(model, "packaged_gguf", lambda: gguf)
    with pytest.raises(CheckpointError, match="cannot be converted"):
        model.demo_model(cache)
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []
