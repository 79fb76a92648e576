from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.checkpoints.sources.fetch import fetch
from raydsinfer.checkpoints.sources.listing import bytes_to_bring, list_files
from raydsinfer.errors import CheckpointNotFoundError
from tests.models import write_tiny_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tiny_model("llama", tmp_path / "llama")


def test_a_directory(directory: Path) -> None:
    found = list_files(str(directory))
    size = (directory / "model.safetensors").stat().st_size
    assert found.weights == {"model.safetensors": size}
    assert found.num_bytes > size
    assert bytes_to_bring(str(directory), found) == 0


def test_a_url_before_and_after_it_is_fetched(directory: Path, tmp_path: Path) -> None:
    url, home = f"memory://models/{directory.name}", str(tmp_path / "hf")
    import fsspec

    fsspec.filesystem("memory").put(f"{directory}/", f"/models/{directory.name}/", recursive=True)
    found = list_files(url, hf_home=home)
    assert found.weights == list_files(str(directory)).weights
    assert bytes_to_bring(url, found, hf_home=home) == found.num_bytes
    assert not (tmp_path / "hf").exists()  # asking brings nothing
    fetch(url, hf_home=home)
    assert bytes_to_bring(url, found, hf_home=home) == 0


def test_a_directory_that_is_not_here(directory: Path) -> None:
    found = list_files(str(directory))
    with pytest.raises(CheckpointNotFoundError, match="on this node"):
        bytes_to_bring("/no/such/place", found)


def test_a_hub_that_cannot_be_asked(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="not in the hub cache"):
        list_files("owner/name", hf_home=str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    cache = tmp_path / "hub" / "models--owner--name"
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for name in ("config.json", "model.safetensors"):
        (cache / "snapshots" / commit / name).write_bytes((directory / name).read_bytes())
    found = list_files("owner/name", hf_home=str(tmp_path))
    assert (found.complete, found.commit) == (False, commit)
    assert list(found.weights) == ["model.safetensors"]
    assert bytes_to_bring("owner/name", found, hf_home=str(tmp_path)) == 0
    (cache / "snapshots" / commit / "model.safetensors").unlink()
    assert bytes_to_bring("owner/name", found, hf_home=str(tmp_path)) == found.weights["model.safetensors"]
