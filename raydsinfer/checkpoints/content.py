"""What a model's files are, wherever they are: the same for equal files, without reading the weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.checkpoints.model_files import INDICES, named_in, wanted_files
from raydsinfer.checkpoints.resharding.identity import identify
from raydsinfer.checkpoints.sources.hub import HubModel
from raydsinfer.checkpoints.sources.pins import OURS, Pin
from raydsinfer.checkpoints.sources.remote import RemoteFile, Store

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class ModelContent:
    """What a model is.

    Args:
        kind: ``directory``, ``url`` or ``hub``.
        content: Of a directory a hash over its files (large ones by samples), of a URL one over its listing, of a
            model on the hub its name and commit.
        revision: Given as ``revision`` to a fetch, brings this content or fails, whatever happens at the source; None
            where nothing can be pinned.
    """

    kind: str
    content: str
    revision: str | None = None


def model_content(model: str, *, revision: str | None = None, hf_home: str | None = None) -> ModelContent:
    """Find out what a model is. Configuration, tokenizer, code and weights count; where it is does not.

    Args:
        model: Local directory, URL or hub name.
        revision: Branch, tag or commit on the hub, or what an earlier `ModelContent` had.
        hf_home: Directory for fetched models; None means the hub library's own.

    Raises:
        CheckpointError: It is not there, or cannot be read.
    """
    named = model.startswith(("file://", "local://"))
    path = Path(model.partition("://")[2] if named else model).expanduser()
    if path.is_dir():
        return ModelContent(kind="directory", content=identify(path, _names(path)).content)
    if "://" in model:
        pin = Pin.read(revision) or _pin(Store(model).files())
        return ModelContent(kind="url", content=pin.content, revision=pin.revision)
    if revision is not None and _COMMIT.fullmatch(revision):
        return ModelContent(kind="hub", content=f"{model}@{revision}", revision=revision)
    hub = HubModel(name=model, revision=revision, cache=Path(hf_home).expanduser() / "hub" if hf_home else None)
    commit = hub.commit()
    # A hub that has no commits gives none that it could be asked for.
    return ModelContent(
        kind="hub", content=f"{model}@{commit}", revision=commit if _COMMIT.fullmatch(commit) else revision
    )


def _names(directory: Path) -> set[str]:
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    indices = there & {*INDICES, "config.json"}
    named = {name for index in indices for name in named_in(index, (directory / index).read_bytes())}
    return ({*wanted_files(there), *named} & there) - OURS


def _pin(files: Sequence[RemoteFile]) -> Pin:
    counted = [file for file in files if file.name not in OURS]
    content = _hash(f"{file.name}\0{file.num_bytes}\0{file.checksum or file.stamp}" for file in counted)
    return Pin.of({file.name: file.stamp for file in counted}, content)


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()
