"""Which of the files beside a model belong to it: pure decisions over names."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any

from raydsinfer.checkpoints.weights.presharded import PRESHARDED_INDEX
from raydsinfer.checkpoints.weights.ranks_index import RANKS_INDEX

CHECKSUMS_FILE = "SHA256SUMS"

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json", RANKS_INDEX, PRESHARDED_INDEX)
"""Files that name the files of the weights."""

# Asked for one by one where a server does not list its files.
KNOWN_FILES = (
    *INDICES,
    "model.safetensors",
    "pytorch_model.bin",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "raydsinfer.json",
    CHECKSUMS_FILE,
)
"""Names that a model's files have, ``config.json`` apart."""

# What describes a model without being its weights.
_SMALL_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".spm", ".codes"}


def wanted_files(names: Collection[str], *, weights: bool = True) -> list[str]:
    """The names of a listing that this library can use: small files, and the weights in one form.

    Many models hold the same weights twice or thrice, as safetensors, as pickles and for other
    frameworks. Only one form is wanted, safetensors before pickles.

    Args:
        names: File names relative to the model's directory.
        weights: Whether the weights are wanted, or only configuration and tokenizer.
    """
    small = [name for name in names if _is_small(name)]
    return sorted({*small, *(_weight_files(names) if weights else ())})


def _is_small(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and (path.suffix in _SMALL_SUFFIXES or name == CHECKSUMS_FILE)


def _weight_files(names: Collection[str]) -> list[str]:
    # Indices name files beside them only: what lies deeper is of another kind (onnx/, original/).
    top = [name for name in names if "/" not in name and not name.startswith(".")]
    if {"model.safetensors", "model.safetensors.index.json", RANKS_INDEX} & set(top):
        return _named_alike(top, "model", ".safetensors")
    if {"pytorch_model.bin", "pytorch_model.bin.index.json"} & set(top):
        return _named_alike(top, "pytorch_model", ".bin")
    kinds = (".safetensors", ".bin", ".pt") if PRESHARDED_INDEX in top else (".safetensors", ".bin")
    return [name for name in top if name.endswith(kinds)]


def _named_alike(names: Collection[str], stem: str, suffix: str) -> list[str]:
    """The files with the usual names, beside which others may lie; an index that names no such file has all."""
    ours = [name for name in names if name.endswith(suffix)]
    return [name for name in ours if name.startswith(stem)] or ours


def is_weights(name: str) -> bool:
    """Whether a wanted file holds weights."""
    return name.endswith((".safetensors", ".bin", ".pt"))


def named_in(index: str, text: str | bytes) -> list[str]:
    """The files that an index names, as far as it can be read; `describe` says what is wrong with it.

    Args:
        index: Its file name: ``config.json`` or one of `INDICES`.
        text: What it holds.
    """
    try:
        content = json.loads(text)
        found = set(_named(index, content))
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name in found if name and PurePosixPath(name).name == name)


def _named(index: str, content: Any) -> Iterator[str]:
    if index == "config.json":  # a model that brings its code names modules: "modeling_own.OwnModel"
        for places in content.get("auto_map", {}).values():
            for place in places if isinstance(places, list) else [places]:
                if isinstance(place, str) and "--" not in place:  # else the code is in another repository
                    yield f"{place.rpartition('.')[0]}.py"
    elif index == RANKS_INDEX:
        yield from content["files"]
    elif index == PRESHARDED_INDEX:
        yield from _strings(content["checkpoints"])
    else:
        yield from content["weight_map"].values()


def _strings(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, (list, dict)):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _strings(item)
