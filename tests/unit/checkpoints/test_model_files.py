from __future__ import annotations

import json

import pytest

from raydsinfer.checkpoints.model_files import named_in, wanted_files

SMALL = ["config.json", "merges.txt", "sub/tokenizer.json", "modeling_own.py", "SHA256SUMS"]


@pytest.mark.parametrize(
    ("others", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "training_args.bin"], ["pytorch_model.bin"]),
        (
            [
                *("model.safetensors.index.json", "model-00001-of-00002.safetensors"),
                *("model-00002-of-00002.safetensors", "consolidated.safetensors"),
                *("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
            ],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            ["raydsinfer_ranks.json", "model-shared-00001-of-00001.safetensors", "model-rank-000-of-002.safetensors"],
            ["model-rank-000-of-002.safetensors", "model-shared-00001-of-00001.safetensors"],
        ),
        (["ds_inference_config.json", "tp_00_00.pt", "non-tp.pt"], ["non-tp.pt", "tp_00_00.pt"]),
        (["adapter_model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["odd.safetensors"], ["odd.safetensors"]),
        (
            ["pytorch_model.bin.index.json", "layer-000.bin", "rest.bin"],
            ["layer-000.bin", "rest.bin"],
        ),
        (["model.safetensors", "onnx/model.onnx", "original/model.safetensors"], ["model.safetensors"]),
    ],
)
def test_weights_are_wanted_in_one_form(others: list[str], weights: list[str]) -> None:
    small = {*SMALL, *(name for name in others if name.endswith(".json"))}
    assert set(wanted_files([*SMALL, *others, "README.md"])) == small | set(weights)
    assert set(wanted_files([*SMALL, *others, "README.md"], weights=False)) == small


def test_hidden_files_are_not_wanted() -> None:
    assert wanted_files(
        [".raydsinfer_fetch.json", ".cache/huggingface/x.json", "config.json", ".model.safetensors"]
    ) == ["config.json"]


@pytest.mark.parametrize(
    ("index", "content", "names"),
    [
        ("model.safetensors.index.json", {"weight_map": {"a": "m-1", "b": "m-2", "c": "m-1"}}, ["m-1", "m-2"]),
        ("raydsinfer_ranks.json", {"files": {"m-1": {"bytes": 1}}}, ["m-1"]),
        ("ds_inference_config.json", {"checkpoints": {"tp": ["a.pt"], "non_tp": ["b.pt"]}}, ["a.pt", "b.pt"]),
        ("ds_inference_config.json", {"checkpoints": ["a.pt", "b.pt"]}, ["a.pt", "b.pt"]),
        (
            "config.json",
            {"auto_map": {"AutoConfig": "configuration_own.Own", "AutoTokenizer": ["tok.T", None], "X": "a/b--c.D"}},
            ["configuration_own.py", "tok.py"],
        ),
        ("config.json", {}, []),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../etc/passwd", "b": "m-1"}}, ["m-1"]),
        ("model.safetensors.index.json", {"weight_map": ["no", "map"]}, []),
        ("model.safetensors.index.json", [], []),
    ],
)
def test_files_that_an_index_names(index: str, content: object, names: list[str]) -> None:
    assert named_in(index, json.dumps(content)) == names


def test_an_index_that_is_no_json_names_nothing() -> None:
    assert named_in("model.safetensors.index.json", b"<html>") == []
