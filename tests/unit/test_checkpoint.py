"""Checkpoints: names, directories and URLs, and errors where the mistake was made."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from ray.train import Checkpoint

from raydsinfer.checkpoint import SETTINGS_FILE, DeepSpeedCheckpoint
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnknownSettingError,
    UnsupportedError,
)
from tests.web import WebModel, serving

CONFIG = EngineConfig(dtype="float32", max_tokens=99)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def test_a_hub_name() -> None:
    checkpoint = DeepSpeedCheckpoint.from_pretrained("facebook/opt-66b", CONFIG)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.spec.model, checkpoint.spec.config) == ("facebook/opt-66b", CONFIG)
    assert repr(checkpoint) == "DeepSpeedCheckpoint('facebook/opt-66b', dtype='float32', max_tokens=99)"
    assert checkpoint.get_metadata() == {}
    with pytest.raises(UnsupportedError, match="to_directory"):
        checkpoint.set_metadata({"a": 1})


def test_a_hub_name_travels_as_a_name(tmp_path: Path) -> None:
    checkpoint = DeepSpeedCheckpoint.from_pretrained("facebook/opt-66b", CONFIG)
    pickled = pickle.dumps(checkpoint)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).spec == checkpoint.spec  # noqa: S301  (our own bytes)
    written = checkpoint.to_directory(tmp_path / "saved")
    assert os.listdir(written) == [SETTINGS_FILE]
    assert DeepSpeedCheckpoint.from_directory(written).spec == checkpoint.spec
    with checkpoint.as_directory() as directory:
        assert DeepSpeedCheckpoint.from_directory(directory).spec == checkpoint.spec
    assert not os.path.exists(directory)


def test_a_directory_that_names_a_model_elsewhere_can_be_copied(tmp_path: Path) -> None:
    first = DeepSpeedCheckpoint.from_pretrained("facebook/opt-66b", CONFIG).to_directory(tmp_path / "a")
    second = DeepSpeedCheckpoint.from_directory(first).to_directory(tmp_path / "b")
    assert DeepSpeedCheckpoint.from_directory(second).spec.model == "facebook/opt-66b"


def test_a_local_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    for given in (model, str(model), "model", "./model", f"file://{model}"):
        checkpoint = DeepSpeedCheckpoint.from_pretrained(given, CONFIG)
        assert (checkpoint.spec.model, checkpoint.path) == (str(model), str(model))
    assert os.listdir(model) == ["config.json"], "referring to a model wrote into it"
    checkpoint.set_metadata({"a": 1})
    assert checkpoint.get_metadata() == {"a": 1}


def test_a_local_model_is_copied_with_its_settings(model: Path, tmp_path: Path) -> None:
    copy = DeepSpeedCheckpoint.from_pretrained(model, CONFIG).to_directory(tmp_path / "copy")
    assert sorted(os.listdir(copy)) == ["config.json", SETTINGS_FILE]
    for again in (DeepSpeedCheckpoint.from_directory(copy), DeepSpeedCheckpoint.from_pretrained(copy)):
        assert (again.spec.model, again.spec.config) == (copy, CONFIG)
    other = EngineConfig(max_tokens=5)
    assert DeepSpeedCheckpoint.from_pretrained(copy, other).spec.config == other


def test_a_temporary_copy(model: Path) -> None:
    copy = DeepSpeedCheckpoint.from_pretrained(model).to_directory()
    assert DeepSpeedCheckpoint.from_directory(copy).spec.config == EngineConfig()


@pytest.mark.parametrize("url", ["memory://bucket/model", "gs://bucket/model"])
def test_a_url_is_not_looked_into(url: str) -> None:
    checkpoint = DeepSpeedCheckpoint.from_pretrained(url, CONFIG)
    assert (checkpoint.spec.model, checkpoint.spec.config) == (url, CONFIG)
    assert checkpoint.path.strip("/") == "bucket/model"


def test_settings_behind_a_url_are_read_when_none_are_given() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    text = json.dumps({"engine_config": {"max_tokens": 7}})
    memory.pipe_file("/with-settings/" + SETTINGS_FILE, text.encode())
    checkpoint = DeepSpeedCheckpoint.from_pretrained("memory://with-settings")
    assert checkpoint.spec.config.max_tokens == 7
    assert checkpoint.spec.model == "memory://with-settings"


@pytest.mark.parametrize("path", ["nope", "./nope", "../nope/x", "/nope/a/b", "nope/a/b", "~/nope-nope"])
def test_paths_that_do_not_exist(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no such directory") as caught:
        DeepSpeedCheckpoint.from_pretrained(path)
    assert "owner/name" in str(caught.value)
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        DeepSpeedCheckpoint.from_pretrained(Path(path))
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        DeepSpeedCheckpoint.from_directory(path)


def test_a_path_object_is_never_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        DeepSpeedCheckpoint.from_pretrained(Path("owner/name"))


def test_a_file_is_not_a_model(model: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="not a directory"):
        DeepSpeedCheckpoint.from_pretrained(model / "config.json")


def test_a_directory_without_config_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json \(it holds: weights\.bin\)"):
        DeepSpeedCheckpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "."}', '{"engine_config": 3}'])
def test_broken_settings(model: Path, text: str) -> None:
    (model / SETTINGS_FILE).write_text(text)
    with pytest.raises(CorruptCheckpointError, match=SETTINGS_FILE):
        DeepSpeedCheckpoint.from_pretrained(model)


def test_unknown_settings_are_named(model: Path) -> None:
    (model / SETTINGS_FILE).write_text('{"engine_config": {"dtipe": "float32"}}')
    with pytest.raises(UnknownSettingError, match="Did you mean 'dtype'"):
        DeepSpeedCheckpoint.from_pretrained(model)


def test_a_directory_does_not_decide_that_its_code_may_run(model: Path) -> None:
    trusting = EngineConfig(trust_remote_code=True, max_tokens=7)
    copy = DeepSpeedCheckpoint.from_pretrained(model, trusting).to_directory()
    assert DeepSpeedCheckpoint.from_pretrained(copy).spec.config == EngineConfig(max_tokens=7)
    assert DeepSpeedCheckpoint.from_pretrained(copy, trusting).spec.config.trust_remote_code


def test_the_echo_engine_needs_no_model() -> None:
    config = EngineConfig(engine="echo", echo_fault={"when": "load"})
    checkpoint = DeepSpeedCheckpoint.from_pretrained("nothing", config)
    assert checkpoint.spec.model == "nothing"
    assert DeepSpeedCheckpoint.from_directory(checkpoint.to_directory()).spec == checkpoint.spec


def test_rays_own_checkpoint_of_a_model(model: Path) -> None:
    checkpoint = DeepSpeedCheckpoint.from_checkpoint(Checkpoint.from_directory(str(model)))
    assert checkpoint.spec.model == str(model)
    assert DeepSpeedCheckpoint.from_checkpoint(checkpoint) is checkpoint


def test_a_repr_shows_no_secrets_of_a_url() -> None:
    url = "https://user:hunter2@models.example/opt?X-Signature=abc"
    shown = repr(DeepSpeedCheckpoint.from_pretrained(url, EngineConfig(max_tokens=64)))
    assert "models.example/opt" in shown
    assert "hunter2" not in shown
    assert "abc" not in shown


@pytest.mark.parametrize("content", [b'{"engine_config": {"max_tokens": 7}}', b"no JSON"])
def test_a_signed_url_is_asked_for_its_settings_and_not_shown(content: bytes) -> None:
    model = WebModel({f"m/{SETTINGS_FILE}": content})
    with serving(model) as url:
        signed = f"{url}/m?X-Signature=abc"
        if content.startswith(b"{"):
            checkpoint = DeepSpeedCheckpoint.from_pretrained(signed)
            assert (checkpoint.spec.model, checkpoint.spec.config.max_tokens) == (signed, 7)
        else:
            with pytest.raises(CorruptCheckpointError, match=f"^{url}/m/{SETTINGS_FILE}: ") as caught:
                DeepSpeedCheckpoint.from_pretrained(signed)
            assert "abc" not in str(caught.value)


def test_a_web_server_that_fails_is_not_quoted_with_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, path: str, *_: Any, **__: Any) -> None:
        raise ConnectionResetError(f"reset while reading {path}")

    monkeypatch.setattr("fsspec.implementations.http.HTTPFileSystem._open", fails)
    model = WebModel({f"m/{SETTINGS_FILE}": b"{}"})
    with serving(model) as url, pytest.raises(CheckpointError, match=r"could not be fetched.*reset") as caught:
        DeepSpeedCheckpoint.from_pretrained(f"{url}/m?X-Signature=abc")
    assert "abc" not in str(caught.value)


def test_a_web_server_has_no_directory_to_copy(tmp_path: Path) -> None:
    checkpoint = DeepSpeedCheckpoint.from_pretrained("https://models.example/opt?X-Signature=abc", CONFIG)
    with pytest.raises(UnsupportedError, match=r"a copy of https://models\.example/opt is not.*raydsinfer fetch"):
        checkpoint.to_directory(tmp_path)
    with pytest.raises(UnsupportedError, match="raydsinfer fetch"), checkpoint.as_directory():
        pass


def test_a_kind_of_url_that_nothing_knows() -> None:
    with pytest.raises(CheckpointError, match="nothing installed here knows nosuch://"):
        DeepSpeedCheckpoint.from_pretrained("nosuch://bucket/opt", CONFIG)


def test_settings_can_be_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    own = DeepSpeedCheckpoint.from_pretrained("some/model", EngineConfig(max_tokens=64, seed=3))
    changed = own.replaced(batching="static", max_tokens=128)
    assert changed.spec == EngineSpec(
        model="some/model", config=EngineConfig(batching="static", max_tokens=128, seed=3)
    )
    assert own.spec.config == EngineConfig(max_tokens=64, seed=3)
    assert pickle.loads(pickle.dumps(changed)).spec == changed.spec  # noqa: S301
    with pytest.raises(UnknownSettingError, match="max_token"):
        own.replaced(max_token=1)
