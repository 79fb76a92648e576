from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydsinfer.checkpoints.sources.fetch import fetch
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from tests.web import WebModel, serving

INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
FILES = {
    "opt/config.json": json.dumps({"auto_map": {"AutoConfig": "configuration_own.Own"}}).encode(),
    "opt/configuration_own.py": b"class Own: ...",
    "opt/merges.txt": b"m",
    "opt/model.safetensors.index.json": INDEX,
    "opt/model-1-of-2.safetensors": b"one",
    "opt/model-2-of-2.safetensors": b"two",
    "opt/pytorch_model.bin": b"the same again",
    "opt/odd name.json": b"{}",
}
NAMES = {name.removeprefix("opt/") for name in FILES} - {"pytorch_model.bin"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.checkpoints.sources.remote_errors.WAITS_S", (0.0, 0.0))
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.WAITS_S", (0.0, 0.0))


@pytest.fixture
def web() -> WebModel:
    return WebModel(dict(FILES))


@pytest.fixture
def url(web: WebModel) -> Iterator[str]:
    with serving(web) as base:
        yield f"{base}/opt"


def fetched_names(url: str, target: Path) -> set[str]:
    return {path.name for path in fetch(url, target=target).directory.iterdir() if not path.name.startswith(".")}


def test_a_page_of_links_is_a_listing(web: WebModel, url: str, tmp_path: Path) -> None:
    web.lists = True
    assert fetched_names(url, tmp_path / "copy") == NAMES
    assert web.asked_for("opt/vocab.json", "HEAD") == 0


def test_without_a_listing_known_names_and_those_of_the_index_are_fetched(url: str, tmp_path: Path) -> None:
    assert fetched_names(f"{url}/", tmp_path / "copy") == NAMES - {"odd name.json"}


def test_a_query_goes_with_each_file(url: str, tmp_path: Path) -> None:
    assert "model-2-of-2.safetensors" in fetched_names(f"{url}?signature=abc", tmp_path / "copy")


def test_a_server_that_forbids_what_it_does_not_have(web: WebModel, url: str, tmp_path: Path) -> None:
    web.status = {"opt/": 403, "opt/vocab.json": 403, "opt/tokenizer.json": 401}
    with pytest.raises(CheckpointError, match=r"no permission to read it \(HTTP 401\)"):  # that is another matter
        fetch(url, target=tmp_path / "copy")
    web.status.pop("opt/tokenizer.json")
    assert "merges.txt" in fetched_names(url, tmp_path / "copy")


def test_a_url_with_no_model(web: WebModel, url: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"opt/absent/config.json: no such place \("):
        fetch(f"{url}/absent", target=tmp_path / "copy")
    web.files["opt/page/config.json"] = b"<html>Welcome</html>"
    with pytest.raises(CheckpointNotFoundError, match=r"what it gives for config\.json is no JSON"):
        fetch(f"{url}/page", target=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_server_that_is_not_there(web: WebModel, tmp_path: Path) -> None:
    with serving(web) as base:
        pass
    with pytest.raises(CheckpointError, match="could not be fetched"):
        fetch(f"{base}/opt", target=tmp_path / "copy")


@pytest.mark.parametrize(("status", "kind"), [(403, CheckpointError), (404, CheckpointNotFoundError)])
def test_weights_that_are_not_given(
    web: WebModel, url: str, tmp_path: Path, status: int, kind: type[CheckpointError]
) -> None:
    web.status["opt/model-2-of-2.safetensors"] = status
    with pytest.raises(kind, match=rf"model-2-of-2.safetensors: no .* \(HTTP {status}\)"):
        fetch(url, target=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_checksums_in_headers(web: WebModel, url: str, tmp_path: Path) -> None:
    web.headers["opt/model-1-of-2.safetensors"] = {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    with pytest.raises(CorruptCheckpointError, match=r"model-1-of-2.safetensors: its md5 is f97c5d.* instead of 0000"):
        fetch(url, target=tmp_path / "copy")
    right = base64.b64encode(hashlib.md5(b"one").digest()).decode()  # noqa: S324
    web.headers["opt/model-1-of-2.safetensors"] = {"Content-MD5": right}
    assert "model-1-of-2.safetensors" in fetched_names(url, tmp_path / "copy")


def test_links_lead_nowhere_else(web: WebModel, url: str, tmp_path: Path) -> None:
    web.lists = True
    web.files["opt/..%2fescaped.json"] = web.files["opt/a/../../escaped.json"] = b"{}"
    assert fetched_names(url, tmp_path / "copy") == NAMES
    assert not list(tmp_path.rglob("*escaped*"))
