from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.sources.fetch import fetch, local_directory, looks_like_path
from raydsinfer.checkpoints.sources.local_copy import MANIFEST
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from tests.web import WebModel, serving

ROOT = Path(__file__).parents[4]
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/tokenizer.json": b"t"}


def names_in(directory: Path) -> set[str]:
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return found - {MANIFEST}


def left_beside(directory: Path) -> list[str]:
    """What is in a directory besides copies and locks."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


@pytest.fixture
def remote() -> str:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for name, content in FILES.items():
        filesystem.pipe_file(f"/bucket/model/{name}", content)
    return "memory://bucket/model"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.CHUNK_BYTES", 65536)
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.WAITS_S", (0.0, 0.0))
    monkeypatch.setattr("raydsinfer.checkpoints.sources.remote_errors.WAITS_S", (0.0, 0.0))


def test_a_directory_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("words")
    assert local_directory(str(tmp_path)) == tmp_path
    assert local_directory(f"file://{tmp_path}") == tmp_path
    fetched = fetch(str(tmp_path))
    assert (fetched.directory, fetched.num_bytes, fetched.already_there) == (tmp_path, 2, True)


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


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_path_that_does_not_exist_is_not_looked_up_on_a_hub(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        local_directory(f"{prefix}{tmp_path / 'gone'}")


def test_a_url_is_fetched_once(remote: str, tmp_path: Path) -> None:
    first = fetch(remote, hf_home=str(tmp_path))
    assert (first.num_bytes, first.num_fetched_bytes, first.already_there) == (10, 10, False)
    assert names_in(first.directory) == set(FILES)
    fsspec.filesystem("memory").rm("/bucket/model", recursive=True)
    again = fetch(remote, hf_home=str(tmp_path))
    assert (again.directory, again.num_bytes, again.already_there) == (first.directory, 10, True)
    assert left_beside(first.directory.parent) == []


def odd_names(others: dict[str, bytes]) -> str:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    index = {"weight_map": {"a": "model-0.safetensors", "b": "rest.safetensors"}}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **others}
    for name, content in files.items():
        filesystem.pipe_file(f"/bucket/odd/{name}", content)
    return "memory://bucket/odd"


def test_files_that_only_the_index_names_come_too(tmp_path: Path) -> None:
    url = odd_names({"model-0.safetensors": b"a", "rest.safetensors": b"b", "consolidated.safetensors": b"c"})
    assert names_in(local_directory(url, hf_home=str(tmp_path))) == {
        *("config.json", "model.safetensors.index.json", "model-0.safetensors", "rest.safetensors")
    }


def test_an_index_beside_a_single_file_does_not_count(tmp_path: Path) -> None:
    url = odd_names({"model.safetensors": b"all"})
    assert "model.safetensors" in names_in(local_directory(url, hf_home=str(tmp_path)))


def test_an_index_that_names_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    url = odd_names({"model-0.safetensors": b"a"})
    with pytest.raises(CorruptCheckpointError, match=r"names 1 files that are not there: rest\.safetensors"):
        local_directory(url, hf_home=str(tmp_path))
    assert "config.json" in names_in(local_directory(url, hf_home=str(tmp_path), weights=False))


def test_only_small_files_are_fetched_for_a_tokenizer(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path), weights=False)
    assert names_in(directory) == {"config.json", "sub/tokenizer.json"}
    whole = local_directory(remote, hf_home=str(tmp_path))
    assert local_directory(remote, hf_home=str(tmp_path), weights=False) == whole


def test_progress_counts_bytes(remote: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch(remote, hf_home=str(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    fetch(remote, hf_home=str(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)


def test_an_empty_url_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="nothing is stored there"):
        local_directory("memory://bucket/absent", hf_home=str(tmp_path))
    assert not [p for p in (tmp_path / "raydsinfer").iterdir() if p.suffix != ".lock"]


def test_an_unknown_kind_of_url_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing installed here knows nosuch://"):
        local_directory("nosuch://bucket/model", hf_home=str(tmp_path))


@pytest.mark.parametrize("key", ["../../escaped.txt", "a/../../escaped.txt", "..\\escaped.txt"])
def test_a_key_cannot_reach_out_of_the_directory(tmp_path: Path, key: str) -> None:
    class Climbing(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        protocol = "climbing"

        def find(self, path: str, **_: object) -> dict[str, object]:
            return {f"{path}/{key}": {"size": 1}}

    fsspec.register_implementation("climbing", Climbing, clobber=True)
    with pytest.raises(CheckpointError, match="outside the model's directory"):
        local_directory("climbing://bucket/model", hf_home=str(tmp_path / "home"))
    assert not list(tmp_path.rglob("*escaped.txt"))


def test_a_copy_goes_where_it_is_asked_for(remote: str, tmp_path: Path) -> None:
    target = tmp_path / "models" / "opt"
    assert fetch(remote, target=target).directory == target
    assert names_in(target) == set(FILES)
    assert fetch(remote, target=target).already_there
    assert left_beside(target.parent) == []


def test_a_directory_in_use_for_something_else_is_left_alone(remote: str, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="holds something else"):
        fetch(remote, target=tmp_path / "used")
    with pytest.raises(CheckpointError, match="is a file"):
        fetch(remote, target=tmp_path / "file")
    fsspec.filesystem("memory").pipe_file("/bucket/other/config.json", b"{}")
    fetch("memory://bucket/other", target=tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds something else"):
        fetch(remote, target=tmp_path / "other")
    assert (tmp_path / "used" / "thesis.txt").read_text() == "mine"


def test_a_local_directory_is_copied_to_a_target(tmp_path: Path) -> None:
    source = tmp_path / "with space"
    (source / "sub").mkdir(parents=True)
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    (source / "README.md").write_text("words")
    (source / "merges.txt").symlink_to(source / "README.md")  # as in the hub's cache
    target = tmp_path / "target"
    fetched = fetch(str(source), target=target)
    assert names_in(target) == {*FILES, "merges.txt"}
    assert not (target / "merges.txt").is_symlink()
    assert (fetched.directory, fetched.num_bytes) == (target, 15)
    assert fetch(str(source), target=source).already_there
    for wrong in (source / "inside", tmp_path):
        with pytest.raises(CheckpointError, match="lies inside"):
            fetch(str(source), target=wrong)


def test_a_copy_is_refreshed_when_that_is_asked_for(remote: str, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    target = tmp_path / "copy"
    fetch(remote, target=target)
    (target / "notes.md").write_text("mine")
    unchanged = (target / "model.safetensors").stat().st_ino
    assert fetch(remote, target=target, refresh=True).already_there
    filesystem.pipe_file("/bucket/model/config.json", b'{"a": 1}')
    filesystem.pipe_file("/bucket/model/vocab.txt", b"v")
    filesystem.rm("/bucket/model/sub/tokenizer.json")
    assert fetch(remote, target=target).already_there
    assert (target / "config.json").read_bytes() == b"{}"
    refreshed = fetch(remote, target=target, refresh=True)
    assert (refreshed.num_bytes, refreshed.num_fetched_bytes) == (16, 9)
    assert names_in(target) == {"config.json", "model.safetensors", "vocab.txt", "notes.md"}
    assert (target / "config.json").read_bytes() == b'{"a": 1}'
    assert (target / "model.safetensors").stat().st_ino == unchanged
    assert left_beside(tmp_path) == []


def test_a_copy_that_lost_a_file_gets_it_back(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path))
    (directory / "model.safetensors").write_bytes(b"weig")
    fetched = fetch(remote, hf_home=str(tmp_path))
    assert (fetched.directory, fetched.num_fetched_bytes) == (directory, 7)
    assert (directory / "model.safetensors").read_bytes() == b"weights"


def test_what_an_interrupted_fetch_left_is_used(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path))
    part = directory.with_name(f".{directory.name}.part")
    directory.rename(part)
    (part / "model.safetensors").rename(part / "model.safetensors.part")
    os.truncate(part / "model.safetensors.part", 3)
    fetched = fetch(remote, hf_home=str(tmp_path))
    assert fetched.num_fetched_bytes == 4
    assert (directory / "model.safetensors").read_bytes() == b"weights"


def test_what_is_left_of_a_file_that_has_changed_is_not_used(remote: str, tmp_path: Path) -> None:
    directory = local_directory(remote, hf_home=str(tmp_path))
    part = directory.with_name(f".{directory.name}.part")
    directory.rename(part)
    (part / "model.safetensors").rename(part / "model.safetensors.part")
    fsspec.filesystem("memory").pipe_file("/bucket/model/model.safetensors", b"WEIGHTS")
    assert fetch(remote, hf_home=str(tmp_path)).num_fetched_bytes == 7
    assert (directory / "model.safetensors").read_bytes() == b"WEIGHTS"


def test_wrong_checksums_are_found_and_the_file_is_not_kept(remote: str, tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    right, wrong = hashlib.sha256(b"weights").hexdigest(), "0" * 64
    filesystem.pipe_file("/bucket/model/SHA256SUMS", f"{wrong}  model.safetensors\n".encode())
    with pytest.raises(CorruptCheckpointError, match=f"model.safetensors: its sha256 is {right} instead of {wrong}"):
        fetch(remote, target=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.rglob("model.safetensors*"))
    filesystem.pipe_file("/bucket/model/SHA256SUMS", f"{right}  model.safetensors\n".encode())
    fetch(remote, target=tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == b"weights"


def test_the_index_of_the_per_rank_form_has_checksums(tmp_path: Path) -> None:
    filesystem, name = fsspec.filesystem("memory"), "model-rank-000-of-001-00001-of-00001.safetensors"
    sums = {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    filesystem.pipe_file("/bucket/ranks/config.json", b"{}")
    filesystem.pipe_file("/bucket/ranks/raydsinfer_ranks.json", json.dumps({"files": {name: sums}}).encode())
    filesystem.pipe_file(f"/bucket/ranks/{name}", b"WEIGHTS")
    with pytest.raises(CorruptCheckpointError, match=f"{name}: its sha256 is"):
        fetch("memory://bucket/ranks", target=tmp_path / "copy")
    filesystem.pipe_file(f"/bucket/ranks/{name}", b"weigh")
    with pytest.raises(CorruptCheckpointError, match="has 5 bytes instead of the 7 in raydsinfer_ranks"):
        fetch("memory://bucket/ranks", target=tmp_path / "copy")
    filesystem.pipe_file(f"/bucket/ranks/{name}", b"weights")
    assert name in names_in(fetch("memory://bucket/ranks", target=tmp_path / "copy").directory)


def test_a_directory_that_cannot_be_written_to(remote: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written to"):
        fetch(remote, target=tmp_path / "file" / "copy")


CHILD = """
import sys
from pathlib import Path
from raydsinfer.checkpoints.sources import transfer
from raydsinfer.checkpoints.sources.fetch import fetch
transfer.CHUNK_BYTES = 65536
fetched = fetch(sys.argv[1], target=Path(sys.argv[2]))
print(fetched.num_fetched_bytes, fetched.already_there)
"""
WEIGHTS = os.urandom(1_000_000)


def child(url: str, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(target)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_many_processes_fetch_once(tmp_path: Path) -> None:
    web = WebModel({"config.json": b"{}", "model.safetensors": WEIGHTS})
    with serving(web) as url:
        children = [child(url, tmp_path / "copy") for _ in range(4)]
        said = [process.communicate(timeout=120) for process in children]
    assert sorted(out for out, _ in said) == [*["0 True\n"] * 3, f"{len(WEIGHTS) + 2} False\n"], said
    assert web.asked_for("model.safetensors") == -(-len(WEIGHTS) // 65536)
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("small_pieces")
def test_a_killed_fetch_is_resumed(tmp_path: Path) -> None:
    web = WebModel({"config.json": b"{}", "model.safetensors": WEIGHTS}, waits_after=600_000)
    with serving(web) as url:
        process = child(url, tmp_path / "copy")
        wait_until(lambda: web.num_bytes_sent >= 600_000)
        part = tmp_path / ".copy.part" / "model.safetensors.part"
        wait_until(lambda: part.exists() and part.stat().st_size >= 9 * 65536)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (tmp_path / "copy").exists()
        arrived = part.stat().st_size
        web.go_on.set()
        web.requests.clear()
        fetched = fetch(url, target=tmp_path / "copy")
    assert fetched.num_fetched_bytes <= len(WEIGHTS) - arrived + 2
    ranges = [asked for _, name, asked in web.requests if name == "model.safetensors" and asked]
    assert ranges[0].startswith(f"bytes={arrived}-")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("small_pieces")
def test_secrets_of_a_url_are_stored_and_said_nowhere(tmp_path: Path) -> None:
    web = WebModel({"model/config.json": b"{}", "model/model.safetensors": b"weights"})
    with serving(web) as base:
        url = base.replace("http://", "http://me:pa55word@") + "/model"
        signed = f"{url}?signature=5ecret"
        directory = local_directory(signed, hf_home=str(tmp_path))
        web.status["model/config.json"] = 403
        with pytest.raises(CheckpointError, match=re.escape("no permission to read it (HTTP 403)")) as caught:
            fetch(f"{signed}2", hf_home=str(tmp_path))
    stored = "".join(f"{p} {p.read_text() if p.is_file() else ''}" for p in tmp_path.rglob("*"))
    said = "".join(traceback.format_exception(caught.value))
    assert names_in(directory) == {"config.json", "model.safetensors"}
    for secret in ("pa55word", "5ecret"):
        assert secret not in stored
        assert secret not in said


@pytest.mark.usefixtures("small_pieces")
def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    web = WebModel({"config.json": b"{}", "model.safetensors": WEIGHTS})

    def change(done: int, total: int) -> None:
        if done > total // 2:
            web.files["model.safetensors"] = bytes(len(WEIGHTS))

    with serving(web) as url:
        with pytest.raises(CheckpointError, match=r"changed while it was fetched: model\.safetensors"):
            fetch(url, target=tmp_path / "copy", on_progress=change)
        assert not (tmp_path / "copy").exists()
        fetch(url, target=tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == bytes(len(WEIGHTS))
