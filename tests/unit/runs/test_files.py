"""Files that are whole or absent, near and far; rights by the umask; errors that say what to do."""

from __future__ import annotations

import os
import pickle
import uuid
from pathlib import Path

import pytest

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.files import RunFiles


@pytest.fixture(params=["local", "file", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> RunFiles:
    urls = {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{uuid.uuid4().hex}"}
    return RunFiles(urls[request.param])


def test_what_was_put_is_there(files: RunFiles) -> None:
    files.make_folders(["a"])
    assert files.sizes("a") == {}
    files.put("a/x", b"one")
    files.put("a/x", b"three")
    files.put("a/empty", b"")
    assert files.get("a/x") == b"three"
    assert files.sizes("a") == {"x": 5, "empty": 0}
    assert set(files.sizes()) == {"a"}
    assert list(files.get_all(["a/x", "a/y", "a/empty"])) == [b"three", None, b""]
    files.remove("a/x")
    files.remove("a/x")
    assert files.sizes("a") == {"empty": 0}
    assert files.sizes("nowhere") == {}


def test_it_travels_as_a_path(files: RunFiles) -> None:
    files.make_folders(["a"])
    files.put("a/x", b"1")
    pickled = pickle.dumps(files)
    assert len(pickled) < 300
    assert pickle.loads(pickled).get("a/x") == b"1"  # noqa: S301


def test_a_file_that_is_not_there(files: RunFiles) -> None:
    with pytest.raises(RunDirectoryError, match="a/x"):
        files.get("a/x")


def test_a_relative_path_is_one_of_the_drivers_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = pickle.loads(pickle.dumps(RunFiles("out/run")))  # noqa: S301
    monkeypatch.chdir("/")
    files.make_folders([""])
    files.put("x", b"1")
    assert (tmp_path / "out" / "run" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_rights_are_the_umasks_business(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files = RunFiles(tmp_path / "run")
        files.make_folders(["", "a"])
        files.put("a/x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "run/a/x").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "run/a").stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("name", ["a b", "a::b", "a%20b", "#x?y=*[z]", "line\nbreak", "-rf", "ünï", "x" * 200])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    files = RunFiles(tmp_path / name)
    files.make_folders(["", "a"])
    files.put("a/x", b"1")
    assert (tmp_path / name / "a" / "x").read_bytes() == files.get("a/x") == b"1"
    assert files.sizes("a") == {"x": 1}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "inside").touch()
    with pytest.raises(RunDirectoryError, match=r"x: .*directory"):
        files.put("x", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_a_full_disk_says_how_to_go_on() -> None:
    files = RunFiles("/dev")
    with pytest.raises(RunDirectoryError, match=r"No space left on device.*Make room, and go on"):
        files._told("full", lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "is no path"),
        ("nosuch://bucket/x", "nothing installed here knows nosuch://"),
        ("a\0b", "null"),
    ],
)
def test_paths_that_are_none(path: str, said: str) -> None:
    with pytest.raises(RunDirectoryError, match=said):
        RunFiles(path).put("x", b"1")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    files = RunFiles(tmp_path / "run")
    for action in (lambda: files.make_folders(["a"]), lambda: files.put("x", b""), lambda: files.sizes()):
        with pytest.raises(RunDirectoryError, match="run"):
            action()


def test_secrets_in_a_url_are_not_shown() -> None:
    files = RunFiles("memory://user:secret@bucket/x?token=secret")
    assert "secret" not in files.shown
    with pytest.raises(RunDirectoryError) as caught:
        files.get("nothing")
    assert "secret" not in str(caught.value)
