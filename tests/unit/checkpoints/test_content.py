"""What a model is, by its files: in a directory, behind a URL, on a hub."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.content import ModelContent, model_content
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError

FILES = {
    "config.json": b'{"vocab_size": 10}',
    "tokenizer.json": b"{}",
    "model-a.safetensors": b"first",
    "odd name.safetensors": b"second",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-a.safetensors", "b": "odd name.safetensors"}}',
}


def written(directory: Path) -> Path:
    directory.mkdir()
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    return directory


def content(directory: object) -> str:
    return model_content(str(directory)).content


def test_copies_are_the_same_model(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    assert content(one) == content(other) == content(f"file://{one}") == content(f"{one}/")
    for name in ("README.md", "raydsinfer.json", ".cache.json", "training.log"):
        (other / name).write_text("{}")
    assert content(one) == content(other)


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja", "modeling_own.py"])
def test_each_file_counts(tmp_path: Path, name: str) -> None:
    model = written(tmp_path / "a")
    before = content(model)
    (model / name).write_bytes(FILES.get(name, b"") + b" ")
    assert content(model) != before


def test_behind_a_url_the_listing_counts() -> None:
    url = f"memory://{uuid.uuid4().hex}/model"
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({f"{url}/{name}": data for name, data in FILES.items()})
    before = model_content(url)
    assert (before.kind, model_content(url)) == ("url", before)
    filesystem.pipe(f"{url}/README.md", b"words")
    filesystem.pipe(f"{url}/raydsinfer.json", b"{}")
    assert model_content(url) == before
    filesystem.pipe(f"{url}/model-a.safetensors", b"FIRST")
    assert model_content(url) != before


def test_a_commit_says_it_without_the_hub() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    expected = ModelContent(kind="hub", content=f"owner/model@{commit}", revision=commit)
    assert model_content("owner/model", revision=commit) == expected


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for model in (f"memory://{uuid.uuid4().hex}", "nobody/nothing"):
        with pytest.raises(CheckpointNotFoundError):
            model_content(model, hf_home=str(tmp_path))
    with pytest.raises(CheckpointError):
        model_content("nosuch://bucket/model")
