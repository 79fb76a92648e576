"""A process that is killed between two renames leaves the older reshard beside its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydsinfer.checkpoints.resharding.manifest import Settings
from raydsinfer.checkpoints.resharding.reshard import reshard_files
from tests import synthetic

LAYERS = Settings(layout="layers", max_shard_bytes=10**7)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "source", synthetic.tensors(num_layers=1))


@pytest.fixture
def aside(tmp_path: Path, source: Path) -> Path:
    """A reshard as the first of two renames leaves it."""
    run(source, tmp_path / "target")
    return (tmp_path / "target").rename(tmp_path / "target.replaced-0123abcd")


def run(source: Path, target: Path, **more: Any) -> Any:
    return reshard_files(source, target, LAYERS, origin={}, **more)


def test_it_is_put_back(tmp_path: Path, source: Path, aside: Path) -> None:
    assert run(source, tmp_path / "target").already_there
    assert not aside.exists()


def test_it_is_removed_if_the_new_one_is_in_place(tmp_path: Path, source: Path, aside: Path) -> None:
    other = tmp_path / "other"
    run(source, other).target.rename(tmp_path / "target")
    assert run(source, tmp_path / "target").already_there
    assert not aside.exists()


def test_half_of_it_is_not_put_back(tmp_path: Path, source: Path, aside: Path) -> None:
    next(aside.glob("*.safetensors")).unlink()
    assert not run(source, tmp_path / "target").already_there
    assert not aside.exists()


def test_what_is_not_ours_stays(tmp_path: Path, source: Path, aside: Path) -> None:
    (aside / "notes.txt").write_text("my work")
    (tmp_path / "target.replaced-00000000").mkdir()
    (tmp_path / "target.replaced-by-hand").write_text("my work")
    assert not run(source, tmp_path / "target").already_there
    assert (aside / "notes.txt").read_text() == "my work"
    assert (tmp_path / "target.replaced-00000000").is_dir()
    assert (tmp_path / "target.replaced-by-hand").is_file()


def test_a_process_killed_between_the_renames(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = tmp_path / "target", Path.rename

    def killed(path: Path, to: Path) -> Path:
        if path.name == "target.partial":
            raise KeyboardInterrupt
        return rename(path, to)

    run(source, target)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, target, overwrite=True)
    assert not target.exists()
    assert run(source, target).already_there
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock", "target.partial"}
    assert run(source, target, overwrite=True).num_resumed == 2
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock"}
