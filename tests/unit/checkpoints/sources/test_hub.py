"""The hub's own library against a server on this machine that speaks as the hub does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from raydsinfer.checkpoints.sources.fetch import fetch, local_directory
from raydsinfer.checkpoints.sources.hub import HubModel
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError
from raydsinfer.rows.keys import run_identity

FILES = {
    "config.json": b"{}",
    "sub/tokenizer.json": b"t",
    "model.safetensors": b"safe weights",
    "pytorch_model.bin": b"the same again",
    "README.md": b"words",
}
WANTED = {"config.json", "sub/tokenizer.json", "model.safetensors"}


@dataclass
class Hub:
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    token: str | None = None
    claimed_bytes: int | None = None
    downloads: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()  # noqa: S324


def blob(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        path = unquote(urlsplit(self.path).path)
        listing = re.fullmatch(r"/api/models/owner/model(?:/(revision|tree)/(\w+))?/?", path)
        file = re.fullmatch(r"/owner/model/resolve/(\w+)/(.+)", path)
        if listing and listing[2] in (None, "main", self.hub.commit):
            self._send_listing(listing[1] or "revision")
        elif file and file[1] in ("main", self.hub.commit) and file[2] in self.hub.files:
            content = self.hub.files[file[2]]
            if self.command == "GET":
                self.hub.downloads.append(file[2])
            self._send(200, content, {"ETag": f'"{blob(content)}"', "X-Repo-Commit": self.hub.commit})
        else:
            known = path.startswith(("/api/models/owner/model/", "/owner/model/"))
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send_listing(self, kind: str) -> None:
        key = "rfilename" if kind == "revision" else "path"
        entries = [self._entry(key, name, content) for name, content in self.hub.files.items()]
        whole = {"id": "owner/model", "sha": self.hub.commit, "siblings": entries}
        self._send(200, json.dumps(whole if kind == "revision" else entries).encode(), {})

    def _entry(self, key: str, name: str, content: bytes) -> dict[str, Any]:
        size, oid = self.hub.claimed_bytes or len(content), blob(content)
        return {key: name, "type": "file", "size": size, "blobId": oid, "oid": oid}

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    served = type("Served", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
        server.shutdown()
        thread.join()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def names_in(directory: Path) -> set[str]:
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(".")}


def test_weights_come_in_one_form_and_once(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = fetch("owner/model", hf_home=str(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert names_in(first.directory) == WANTED
    assert (first.num_bytes, first.num_fetched_bytes, first.already_there) == (15, 15, False)
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    again = fetch("owner/model", hf_home=str(tmp_path))
    assert (again.directory, again.num_fetched_bytes, again.already_there) == (first.directory, 0, True)
    assert sorted(hub.downloads) == sorted(WANTED)


def test_only_what_is_missing_is_fetched(hub: Hub, tmp_path: Path) -> None:
    small = local_directory("owner/model", hf_home=str(tmp_path), weights=False)
    assert names_in(small) == WANTED - {"model.safetensors"}
    assert fetch("owner/model", hf_home=str(tmp_path)).num_fetched_bytes == 12
    hub.files["config.json"] = b'{"a": 1}'
    updated = fetch("owner/model", hf_home=str(tmp_path))
    assert updated.num_fetched_bytes == 8
    assert (updated.directory / "config.json").read_bytes() == b'{"a": 1}'
    assert hub.downloads.count("model.safetensors") == 1


def test_a_branch_that_moved_is_fetched_and_said_so(hub: Hub, tmp_path: Path) -> None:
    fetch("owner/model", hf_home=str(tmp_path))
    hub.files["model.safetensors"] = b"better weights"
    seen: list[tuple[int, int]] = []
    moved = fetch("owner/model", hf_home=str(tmp_path), on_progress=lambda done, total: seen.append((done, total)))
    assert (moved.directory / "model.safetensors").read_bytes() == b"better weights"
    assert (moved.num_fetched_bytes, moved.already_there) == (14, False)
    assert seen[-1] == (17, 17)
    assert fetch("owner/model", hf_home=str(tmp_path)).already_there


def test_pickles_are_fetched_where_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    assert "pytorch_model.bin" in names_in(local_directory("owner/model", hf_home=str(tmp_path)))


def test_what_is_cached_will_do_without_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = local_directory("owner/model", hf_home=str(tmp_path), weights=False)
    offline(monkeypatch)
    assert local_directory("owner/model", hf_home=str(tmp_path), weights=False) == small
    with pytest.raises(CheckpointNotFoundError, match="only its small files are in the hub cache"):
        local_directory("owner/model", hf_home=str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    whole = fetch("owner/model", hf_home=str(tmp_path)).directory
    offline(monkeypatch)
    cached = fetch("owner/model", hf_home=str(tmp_path))
    assert (cached.directory, cached.num_bytes, cached.already_there) == (whole, 15, True)


def test_a_commit_is_known_from_the_hub_or_from_the_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HubModel(name="owner/model", cache=tmp_path / "hub")
    first = model.commit()
    assert first == hub.commit
    hub.files["config.json"] = b'{"a": 1}'
    assert model.commit() == hub.commit != first
    local_directory("owner/model", hf_home=str(tmp_path), weights=False)
    offline(monkeypatch)
    assert model.commit() == hub.commit
    with pytest.raises(CheckpointNotFoundError, match="not in the hub cache"):
        HubModel(name="owner/other", cache=tmp_path / "hub").commit()


def test_a_run_stays_with_the_commit_that_it_began_with(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EngineSpec(model="owner/model", config=EngineConfig(hf_home=str(tmp_path)))
    before = run_identity(spec)
    assert before.revision == hub.commit
    old = local_directory("owner/model", revision=before.revision, hf_home=str(tmp_path))
    hub.files["model.safetensors"] = b"better weights"
    pinned = EngineSpec(model=spec.model, config=spec.config.replaced({"revision": before.revision}))
    assert (run_identity(pinned).digest, run_identity(pinned).revision) == (before.digest, before.revision)
    assert run_identity(spec).digest != before.digest
    assert local_directory("owner/model", revision=before.revision, hf_home=str(tmp_path)) == old
    offline(monkeypatch)
    assert local_directory("owner/model", revision=before.revision, hf_home=str(tmp_path)) == old
    assert (old / "model.safetensors").read_bytes() == b"safe weights"


def test_a_name_that_no_hub_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match="not in the hub cache, and the hub is not asked"):
        local_directory("nobody/nothing", hf_home=str(tmp_path))
    with pytest.raises(CheckpointNotFoundError, match="the hub does not give it"):
        local_directory("not!a!name", hf_home=str(tmp_path))


def test_a_name_or_a_revision_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    for name, revision in (("owner/other", None), ("owner/model", "v2")):
        with pytest.raises(
            CheckpointNotFoundError, match=r"the hub does not give it .*Check the name and the revision"
        ):
            fetch(name, revision=revision, hf_home=str(tmp_path))
    assert fetch("owner/model", revision=hub.commit, hf_home=str(tmp_path)).num_bytes == 15


def test_a_token_opens_a_private_model(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_5ecret"  # noqa: S105
    with pytest.raises(CheckpointNotFoundError, match="needs HF_TOKEN on every node"):
        fetch("owner/model", hf_home=str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetch("owner/model", hf_home=str(tmp_path))
    fetch("owner/model", target=tmp_path / "copy")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"5ecret" in p.read_bytes()]


def test_a_model_goes_where_it_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    first = fetch("owner/model", target=target)
    assert (first.directory, first.num_bytes, first.num_fetched_bytes) == (target, 15, 15)
    assert names_in(target) == WANTED
    hub.files["config.json"] = b'{"a": 1}'
    assert fetch("owner/model", target=target).already_there
    refreshed = fetch("owner/model", target=target, refresh=True)
    assert (refreshed.num_bytes, refreshed.num_fetched_bytes) == (21, 8)
    assert (target / "config.json").read_bytes() == b'{"a": 1}'
    assert hub.downloads.count("model.safetensors") == 1
    with pytest.raises(CheckpointError, match="holds something else"):
        fetch("owner/model", revision="v2", target=target)


def test_room_is_looked_for_first(hub: Hub, tmp_path: Path) -> None:
    hub.claimed_bytes = 10**18
    with pytest.raises(CheckpointError, match=r"3000000\.0 TB more are needed there, and .* are free"):
        fetch("owner/model", hf_home=str(tmp_path))
    assert hub.downloads == []
