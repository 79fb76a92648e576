"""What a model's files are, wherever they are: the same for equal files, without reading the weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.checkpoints.model_files import INDICES, named_in, wanted_files
from raydsinfer.checkpoints.resharding.identity import identify
from raydsinfer.checkpoints.sources.hub import HubModel
from raydsinfer.checkpoints.sources.remote import Store

# Files beside a model that say nothing of what it is: our own settings for it, and where it was resharded from.
_OURS = {"raydsinfer.json", "raydsinfer_reshard.json"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class ModelContent:
    """What a model is.

    Args:
        kind: ``directory``, ``url`` or ``hub``.
        content: Of a directory a hash over its files (large ones by samples), of a URL one over its listing, of a
            model on the hub its name and commit.
    """

    kind: str
    content: str


def model_content(model: str, *, revision: str | None = None, hf_home: str | None = None) -> ModelContent:
    """Find out what a model is. Configuration, tokenizer, code and weights count; where it is does not.

    Args:
        model: Local directory, URL or hub name.
        revision: Branch, tag or commit on the hub.
        hf_home: Directory for fetched models; None means the hub library's own.

    Raises:
        CheckpointError: It is not there, or cannot be read.
    """
    named = model.startswith(("file://", "local://"))
    path = Path(model.partition("://")[2] if named else model).expanduser()
    if path.is_dir():
        return ModelContent(kind="directory", content=identify(path, _names(path)).content)
    if "://" in model:
        return ModelContent(kind="url", content=_listing(Store(model)))
    if revision is not None and _COMMIT.fullmatch(revision):
        return ModelContent(kind="hub", content=f"{model}@{revision}")
    hub = HubModel(name=model, revision=revision, cache=Path(hf_home).expanduser() / "hub" if hf_home else None)
    return ModelContent(kind="hub", content=f"{model}@{hub.commit()}")


def _names(directory: Path) -> set[str]:
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    indices = there & {*INDICES, "config.json"}
    named = {name for index in indices for name in named_in(index, (directory / index).read_bytes())}
    return ({*wanted_files(there), *named} & there) - _OURS


def _listing(store: Store) -> str:
    files = (file for file in store.files() if file.name not in _OURS)
    return _hash(f"{file.name}\0{file.num_bytes}\0{file.checksum or file.stamp}" for file in files)


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()
