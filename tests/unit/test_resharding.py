"""The public `reshard`: from anywhere, with nothing secret left behind, readable by transformers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from raydsinfer import reshard
from raydsinfer.errors import CheckpointNotFoundError, InvalidSettingError
from tests import synthetic
from tests.models import write_tiny_model
from tests.web import WebModel, serving


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layout": "rows"}, "layout='rows' cannot be used: expected 'layers', 'ranks' or 'deepspeed'"),
        ({"layout": "ranks"}, "tp_size=None cannot be used: expected a number of ranks"),
        ({"layout": "deepspeed"}, "tp_size=None cannot be used: expected a number of ranks"),
        ({"layout": "ranks", "tp_size": 0}, "tp_size=0 cannot be used"),
        ({"tp_size": 2}, "tp_size=2 cannot be used: expected to stand with layout='ranks' or 'deepspeed'"),
        ({"dtype": "int8"}, "dtype='int8' cannot be used: expected float16, bfloat16 or float32"),
        ({"max_shard_size": "5 parsecs"}, "max_shard_size='5 parsecs' cannot be used"),
        ({"max_shard_size": 0}, "max_shard_size=0 cannot be used"),
        ({"max_shard_size": "1.5kB"}, r"max_shard_size='1.5 kB' cannot be used: expected at least 9\d\d\d bytes"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors())
    with pytest.raises(InvalidSettingError, match=says):
        reshard(source, tmp_path / "target", **settings)
    assert not list(tmp_path.glob("target.partial*"))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("size", "num_files"), [("10GB", 4), ("14KiB", 4), ("13kB", 5), (13_000, 5)])
def test_sizes(tmp_path: Path, size: str | int, num_files: int) -> None:
    state = synthetic.tensors() | {"lm_head.weight": torch.rand(40, 60)}
    source = synthetic.write(tmp_path / "source", state)
    assert reshard(source, tmp_path / "target", max_shard_size=size).num_files == num_files


def test_from_a_url_without_its_secrets(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors())
    files = {f"m/{path.name}": path.read_bytes() for path in source.iterdir()}
    told: list[tuple[int, int]] = []
    with serving(WebModel(files)) as url:
        secret = url.replace("http://", "http://me:s3cret@") + "/m"
        report = reshard(
            secret, tmp_path / "target", hf_home=str(tmp_path / "home"), on_progress=lambda *at: told.append(at)
        )
    assert report.num_tensors == 14
    assert len({total for _, total in told}) == 2  # fetched, then written
    manifest = json.loads((tmp_path / "target" / "raydsinfer_reshard.json").read_text())
    assert manifest["origin"]["name"].endswith("/m")
    assert not [path for path in (tmp_path / "target").iterdir() if b"s3cret" in path.read_bytes()]


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        reshard(tmp_path / "source", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_the_report_survives_pickling(tmp_path: Path) -> None:
    report = reshard(synthetic.write(tmp_path / "source", synthetic.tensors()), tmp_path / "target")
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301


@pytest.mark.parametrize("twice", [False, True], ids=["tied once", "tied twice"])
def test_transformers_reads_layers(tmp_path: Path, twice: bool) -> None:
    source = write_tiny_model("llama", tmp_path / "source", tie_word_embeddings=True)
    before = AutoModelForCausalLM.from_pretrained(source)
    if twice:  # as pickles of older models have it
        torch.save(before.state_dict(), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    report = reshard(source, tmp_path / "target")
    assert report.num_files == 4
    after, info = AutoModelForCausalLM.from_pretrained(tmp_path / "target", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert after.lm_head.weight is after.model.embed_tokens.weight
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor)


def test_transformers_reads_the_dtype(tmp_path: Path) -> None:
    source = write_tiny_model("opt", tmp_path / "source")
    reshard(source, tmp_path / "target", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype="auto").dtype == torch.bfloat16
