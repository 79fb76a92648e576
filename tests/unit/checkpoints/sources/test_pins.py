"""A run stays with the files that it began with, whatever happens at the source."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.content import model_content
from raydsinfer.checkpoints.sources.fetch import fetch, local_directory
from raydsinfer.checkpoints.sources.pins import Pin
from raydsinfer.errors import CheckpointError

STAMPS = {"config.json": "1", "model.safetensors": "2", "raydsinfer.json": "3"}


@pytest.fixture
def url() -> str:
    url = f"memory://{uuid.uuid4().hex}/model"
    put(url, b"old weights")
    return url


def put(url: str, weights: bytes, config: bytes = b"{}") -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({f"{url}/config.json": config, f"{url}/model.safetensors": weights})


def loaded(url: str, home: Path, revision: str | None) -> bytes:
    return (local_directory(url, revision=revision, hf_home=str(home)) / "model.safetensors").read_bytes()


def test_a_pin_is_a_text_and_back() -> None:
    pin = Pin.of(STAMPS, "content")
    assert Pin.read(pin.revision) == pin
    for word in (None, "", "main", "listing", "listing:a", "0123456789abcdef" * 2 + "01234567"):
        assert Pin.read(word) is None


@pytest.mark.parametrize(
    ("name", "whole", "small"),
    [("config.json", False, False), ("model.safetensors", False, True), ("raydsinfer.json", True, True)],
)
def test_what_fits_a_pin(name: str, whole: bool, small: bool) -> None:
    pin = Pin.of(STAMPS, "content")
    changed = {**STAMPS, name: "other"}
    assert (pin.fits(changed, weights=True), pin.fits(changed, weights=False)) == (whole, small)
    assert pin.fits({"config.json": "1"}, weights=False)
    assert not pin.fits({"config.json": "1"}, weights=True)


def test_what_is_loaded_is_what_the_identity_says(url: str, tmp_path: Path) -> None:
    before = model_content(url)
    assert loaded(url, tmp_path, before.revision) == b"old weights"
    put(url, b"new weights")
    after = model_content(url)
    assert after != before
    assert loaded(url, tmp_path, after.revision) == b"new weights"
    assert loaded(url, tmp_path, before.revision) == b"old weights"  # another run may still be at it


def test_a_copy_that_fits_is_used_without_a_look_at_the_source(url: str, tmp_path: Path) -> None:
    revision = model_content(url).revision
    usual = fetch(url, hf_home=str(tmp_path)).directory
    fsspec.filesystem("memory").rm(url, recursive=True)
    again = fetch(url, revision=revision, hf_home=str(tmp_path))
    assert (again.directory, again.already_there) == (usual, True)
    assert fetch(url, revision=revision, hf_home=str(tmp_path), weights=False).directory == usual
    assert model_content(url, revision=revision).revision == revision


def test_a_node_that_comes_late_does_not_mix_models(url: str, tmp_path: Path) -> None:
    revision = model_content(url).revision
    fsspec.filesystem("memory").pipe(f"{url}/model.safetensors", b"new weights")
    for has_copy in (False, True):
        with pytest.raises(CheckpointError, match="has changed since the run began"):
            loaded(url, tmp_path / str(has_copy), revision)
        assert loaded(url, tmp_path / "True", None) == b"new weights"
    small = local_directory(url, revision=revision, hf_home=str(tmp_path / "small"), weights=False)
    assert (small / "config.json").read_bytes() == b"{}"


def test_a_tokenizer_comes_from_the_files_that_are_meant(url: str, tmp_path: Path) -> None:
    local_directory(url, hf_home=str(tmp_path))
    put(url, b"old weights", config=b'{"a": 1}')
    directory = local_directory(url, revision=model_content(url).revision, hf_home=str(tmp_path), weights=False)
    assert (directory / "config.json").read_bytes() == b'{"a": 1}'
