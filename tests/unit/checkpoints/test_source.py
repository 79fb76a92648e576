from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.source import local_directory, looks_like_path
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert local_directory(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/models/opt", True),
        ("./opt", True),
        ("~/opt", True),
        ("a/b/c", True),
        ("facebook/opt-66b", False),
        ("gpt2", False),
    ],
)
def test_what_looks_like_a_path(name: str, path: bool) -> None:
    assert looks_like_path(name) is path


def test_a_path_that_does_not_exist_is_not_looked_up_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        local_directory(str(tmp_path / "gone"))


@pytest.fixture
def remote() -> str:
    filesystem = fsspec.filesystem("memory")
    for name, content in {"config.json": b"{}", "model.safetensors": b"weights", "sub/tokenizer.json": b"t"}.items():
        filesystem.pipe_file(f"/bucket/model/{name}", content)
    return "memory://bucket/model"


def test_a_url_is_fetched_once(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path))
    assert {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} == {
        "config.json",
        "model.safetensors",
        "sub/tokenizer.json",
    }
    fsspec.filesystem("memory").rm("/bucket/model", recursive=True)
    assert local_directory(remote, hf_home=str(tmp_path)) == directory
    assert not list(directory.parent.glob("*.part-*"))


def test_only_small_files_are_fetched_for_a_tokenizer(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path), weights=False)
    assert not (directory / "model.safetensors").exists()
    assert (directory / "config.json").exists()


def test_an_empty_url_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="nothing is stored there"):
        local_directory("memory://bucket/absent", hf_home=str(tmp_path))
    assert not [p for p in (tmp_path / "raydsinfer").iterdir() if p.suffix != ".lock"]


def test_an_unknown_kind_of_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be fetched"):
        local_directory("nosuch://bucket/model", hf_home=str(tmp_path))


def test_a_name_that_no_hub_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="not in the hub cache"):
        local_directory("nobody/nothing", hf_home=str(tmp_path))


def test_a_key_cannot_reach_out_of_the_directory(tmp_path: Path) -> None:
    class Climbing(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        protocol = "climbing"

        def find(self, path: str, **_: object) -> list[str]:
            return [f"{path}/../../escaped.txt"]

    fsspec.register_implementation("climbing", Climbing, clobber=True)
    with pytest.raises(CheckpointError, match="outside the model's directory"):
        local_directory("climbing://bucket/model", hf_home=str(tmp_path / "home"))
    assert not list(tmp_path.rglob("escaped.txt"))


def test_what_a_killed_process_left_is_removed(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path))
    directory.rename(directory.with_name(f"{directory.name}.part-00000000"))
    local_directory(remote, hf_home=str(tmp_path))
    assert not list(directory.parent.glob("*.part-*"))
