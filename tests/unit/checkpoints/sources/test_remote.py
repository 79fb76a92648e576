from __future__ import annotations

import importlib.util
from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.sources.checksums import Checksum
from raydsinfer.checkpoints.sources.remote import Store
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError
from tests.web import WebModel, serving


@pytest.mark.skipif(importlib.util.find_spec("adlfs") is not None, reason="the package is installed")
def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"abfs:// takes a package that is not installed .*Install adlfs on every"
    ):
        Store("abfs://container/model")


def test_files_of_a_bucket() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("config.json", "sub/a.json", "model.safetensors", "pytorch_model.bin", ".git/config.json"):
        filesystem.pipe_file(f"/files/{name}", name.encode())
    store = Store("memory://files/")
    assert {file.name: file.num_bytes for file in store.files()} == {
        "config.json": 11,
        "sub/a.json": 10,
        "model.safetensors": 17,
    }
    assert {file.name for file in store.files(weights=False)} == {"config.json", "sub/a.json"}
    weights = next(file for file in store.files() if file.name == "model.safetensors")
    assert store.read(weights, 6, 10) == b"safe"
    with pytest.raises(CheckpointNotFoundError, match="nothing is stored there"):
        Store("memory://files/config.json").files()


def test_a_stamp_is_another_when_a_file_has_changed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = Store(str(tmp_path)).files()
    assert Store(str(tmp_path)).files() == first
    (tmp_path / "config.json").chmod(0o600)  # is no change of the content
    assert Store(str(tmp_path)).files() == first
    (tmp_path / "config.json").write_text("[]")
    assert Store(str(tmp_path)).files()[0].stamp != first[0].stamp


def test_checksums_beside_the_weights_count_more_than_those_of_the_store() -> None:
    sums = {"SHA256SUMS": b"0" * 64 + b"  model.safetensors\n" + b"1" * 64 + b"  absent.safetensors\n"}
    web = WebModel({"config.json": b"{}", "model.safetensors": b"w", **sums})
    web.headers["model.safetensors"] = {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    with serving(web) as url:
        by_name = {file.name: file for file in Store(url).files()}
    assert by_name["model.safetensors"].checksum == Checksum("sha256", "0" * 64)
    assert by_name["config.json"].checksum is None
    assert "absent.safetensors" not in by_name


def test_a_server_that_says_that_it_knows_no_ranges_is_believed() -> None:
    web = WebModel({"config.json": b"{}"}, headers={"config.json": {"Accept-Ranges": "none"}})
    with serving(web) as url:
        assert [file.ranges for file in Store(url).files()] == [False]
