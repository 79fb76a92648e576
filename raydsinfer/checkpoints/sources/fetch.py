"""Where a model comes from: a directory, a URL, or a hub; ends as a directory on this node."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raydsinfer.checkpoints.model_files import INDICES, named_in, wanted_files
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.sources.download import download, writing_to
from raydsinfer.checkpoints.sources.hub import HubModel
from raydsinfer.checkpoints.sources.local_copy import LocalCopy
from raydsinfer.checkpoints.sources.pins import Pin
from raydsinfer.checkpoints.sources.remote import RemoteFile, Store
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A model that is on this node now.

    Args:
        directory: Where.
        num_bytes: Bytes of its files.
        seconds: Time that it took, waiting for another process that brought it included.
        already_there: Whether this call had nothing to bring.
        num_fetched_bytes: Bytes that this call brought; fewer than all if another had brought some.
    """

    directory: Path
    num_bytes: int
    seconds: float
    already_there: bool
    num_fetched_bytes: int = 0


def local_directory(
    model: str,
    *,
    revision: str | None = None,
    hf_home: str | None = None,
    weights: bool = True,
    on_progress: OnProgress | None = None,
) -> Path:
    """The directory on this node that holds a model; fetched first if it is elsewhere. See `fetch`."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    return fetch(model, revision=revision, hf_home=hf_home, weights=weights, on_progress=on_progress).directory


def fetch(
    model: str,
    *,
    revision: str | None = None,
    hf_home: str | None = None,
    target: Path | None = None,
    weights: bool = True,
    refresh: bool = False,
    on_progress: OnProgress | None = None,
) -> Fetched:
    """Bring a model to this node, once however many processes ask for it at the same time.

    Args:
        model: Local directory, URL that fsspec knows (``s3://…``, ``gs://…``, ``https://…``), or hub name.
        revision: Branch, tag or commit on the hub; of a URL the listing that a run stays with, see `Pin`.
        hf_home: Directory for fetched models; None means the hub library's own.
        target: Directory to put the model into, new or empty; None means a cache, and that a local
            directory stays where it is.
        weights: Whether the weights are needed, or only configuration and tokenizer.
        refresh: Whether to look at the source for changes of a copy that is here. The hub is always asked
            for what goes into its cache. Not while gangs start from that copy.
        on_progress: Told of bytes there and bytes in all; called from several threads, one at a time.

    Raises:
        CheckpointNotFoundError: There is no such model.
        CorruptCheckpointError: What came is not what the source had announced.
        CheckpointError: It could not be fetched.
    """
    start = time.perf_counter()
    local, cache = local_path(model), cache_directory(hf_home)
    target = target and Path(os.path.abspath(target.expanduser()))
    if local is not None and (target is None or target.resolve() == local.resolve()):
        directory, num_bytes, num_fetched = local, _num_bytes(local, weights=weights), 0
    elif local is not None and target is not None:
        directory, num_bytes, num_fetched = _copied(local, target, weights, refresh, on_progress)
    elif "://" in model:
        pin = Pin.read(revision) if target is None else None
        directory, num_bytes, num_fetched = _from_url(model, target, cache, weights, refresh, on_progress, pin)
    else:
        hub_cache = Path(hf_home).expanduser() / "hub" if hf_home else None
        hub = HubModel(name=model, revision=revision, cache=hub_cache, weights=weights)
        directory, num_bytes, num_fetched = _from_hub(hub, target, cache, refresh, on_progress)
    if on_progress is not None and not num_fetched:
        on_progress(num_bytes, num_bytes)
    return Fetched(
        directory=directory,
        num_bytes=num_bytes,
        seconds=time.perf_counter() - start,
        already_there=not num_fetched,
        num_fetched_bytes=num_fetched,
    )


def looks_like_path(model: str) -> bool:
    """Whether a model's name can only be meant as a path, not as ``owner/name`` on a hub."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1 or os.sep * 2 in model


def cache_directory(hf_home: str | None) -> Path:
    """This library's own cache on the node, which may not exist yet.

    Args:
        hf_home: As for `fetch`.
    """
    home = hf_home or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(home).expanduser() / "raydsinfer"


_Brought = tuple[Path, int, int]  # directory, bytes of the model, bytes that were fetched


def local_path(model: str) -> Path | None:
    """The directory that is meant; None if the model is elsewhere.

    Raises:
        CheckpointNotFoundError: A path that is no directory on this node.
    """
    named = model.startswith(("file://", "local://"))
    path = Path(model.partition("://")[2] if named else model).expanduser()
    if path.is_dir():
        return path
    if named or ("://" not in model and looks_like_path(model)):
        raise CheckpointNotFoundError(
            path=model,
            reason="no such directory on this node",
            hint="Give a directory that every node can read, a URL, or a hub name.",
        )
    return None


def _num_bytes(directory: Path, *, weights: bool) -> int:
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return sum((directory / name).stat().st_size for name in wanted_files(names, weights=weights))


def _copied(local: Path, target: Path, weights: bool, refresh: bool, on_progress: OnProgress | None) -> _Brought:
    """A directory that is somewhere else on this node, or on a shared file system."""
    source, inside = local.resolve(), target.resolve()
    if inside.is_relative_to(source) or source.is_relative_to(inside):
        raise CheckpointError(
            path=str(target), reason=f"lies inside {local}, or that in it", hint="Give a directory beside it."
        )
    copy = LocalCopy(directory=target, source=_hash(source.as_uri()), weights=weights)
    # An absolute path, not a URL: fsspec does not take %20 for a space.
    return _bring(copy, _StoredModel(str(source), weights=weights), refresh, on_progress)


def _from_url(
    url: str,
    target: Path | None,
    cache: Path,
    weights: bool,
    refresh: bool,
    on_progress: OnProgress | None,
    pin: Pin | None = None,
) -> _Brought:
    source = _source_of(url)
    if target is None and not weights:
        whole = LocalCopy(directory=cache / source, source=source, weights=True)
        if not refresh and whole.is_whole() and _is_meant(whole, pin, weights):
            return whole.directory, whole.num_bytes(), 0
    name = source if weights else f"{source}-small"
    copy = LocalCopy(directory=target or cache / name, source=source, weights=weights)
    origin = _StoredModel(url, weights=weights, pin=pin)
    if pin is None:
        return _bring(copy, origin, refresh, on_progress)
    # Another run may be loading what the usual copy holds: what differs from it gets a place of its own.
    own = LocalCopy(directory=cache / f"{name}-{pin.name}", source=source, weights=weights)
    if own.is_whole() and _is_meant(own, pin, weights):
        return own.directory, own.num_bytes(), 0
    if not copy.is_whole() or _is_meant(copy, pin, weights):
        brought = _bring(copy, origin, refresh, on_progress)
        if _is_meant(copy, pin, weights):  # else another process was first, and brought something else
            return brought
    return _bring(own, origin, refresh, on_progress)


def _source_of(url: str) -> str:
    # Users and passwords decide who may have a file, not what is in it; a query may decide that, too.
    return _hash(re.sub(r"(\w://)[^/?]*@", r"\1", url.rstrip("/")))


def copy_of_url(url: str, hf_home: str | None) -> LocalCopy:
    """Where this node's cache has, or would have, the model behind a URL."""
    source = _source_of(url)
    return LocalCopy(directory=cache_directory(hf_home) / source, source=source, weights=True)


def _is_meant(copy: LocalCopy, pin: Pin | None, weights: bool) -> bool:
    stamps = {name: stamp for name, (_, stamp) in copy.files().items()}
    return pin is None or pin.fits(stamps, weights=weights)


def _from_hub(
    hub: HubModel, target: Path | None, cache: Path, refresh: bool, on_progress: OnProgress | None
) -> _Brought:
    if target is None:
        return hub.into_cache(cache, on_progress)
    source = _hash(f"{hub.name}@{hub.revision or 'main'}")
    copy = LocalCopy(directory=target, source=source, weights=hub.weights)
    return _bring(copy, hub, refresh, on_progress)


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


class _Origin(Protocol):
    """Where the files of a copy come from."""

    def listing(self) -> dict[str, tuple[int, str]]:
        """File name → bytes, and what changes when the file does."""

    def fill(self, directory: Path, on_progress: OnProgress | None) -> int:
        """Bring the files; returns bytes that had to be fetched."""


class _StoredModel:
    """A model in a place that fsspec can read."""

    def __init__(self, url: str, *, weights: bool, pin: Pin | None = None) -> None:
        self._url, self._weights, self._pin = url, weights, pin
        self._files: Sequence[RemoteFile] = ()

    def listing(self) -> dict[str, tuple[int, str]]:
        self._store = Store(self._url)
        self._files = self._store.files(weights=self._weights)
        if self._pin is not None:
            stamps = {file.name: file.stamp for file in self._files}
            self._pin.require(stamps, self._store.shown, weights=self._weights)
        return {file.name: (file.num_bytes or 0, file.stamp) for file in self._files}

    def fill(self, directory: Path, on_progress: OnProgress | None) -> int:
        num_bytes = download(self._store, self._files, directory, on_progress)
        if num_bytes and any(file.checksum is None for file in self._files):
            self._require_unchanged()
        return num_bytes

    def _require_unchanged(self) -> None:
        """Files are fetched in pieces: without checksums nothing else says that the pieces go together."""
        before = {file.name: (file.num_bytes or 0, file.stamp) for file in self._files}
        changed = sorted(name for name, _ in before.items() ^ self.listing().items())
        if changed:
            raise CheckpointError(
                path=self._store.shown,
                reason=f"changed while it was fetched: {', '.join(dict.fromkeys(changed[:5]))}",
                hint="Fetch again when it does not change any more.",
            )


def _bring(copy: LocalCopy, origin: _Origin, refresh: bool, on_progress: OnProgress | None) -> _Brought:
    """Make a copy, or find that it is there."""
    num_fetched = 0
    with writing_to(copy.directory.parent, lambda: 0):
        copy.require_room()
        if refresh or not copy.is_whole():
            with copy.lock():
                if refresh or not copy.is_whole():  # perhaps another process has just made it
                    num_fetched = _make(copy, origin, on_progress)
    return copy.directory, copy.num_bytes(), num_fetched


def _make(copy: LocalCopy, origin: _Origin, on_progress: OnProgress | None) -> int:
    listing = origin.listing()
    stamps = {name: stamp for name, (_, stamp) in listing.items()}
    if copy.is_whole() and stamps == {name: stamp for name, (_, stamp) in copy.files().items()}:
        return 0
    with writing_to(copy.part.parent, lambda: sum(size for size, _ in listing.values()) - copy.num_bytes_in_part()):
        copy.prepare(stamps)
    num_fetched = origin.fill(copy.part, on_progress)
    if copy.weights:
        _require_named_files(copy.part)
    copy.commit(stamps)
    return num_fetched


def _require_named_files(directory: Path) -> None:
    """A model whose index names files that did not come would be noticed by the gang only."""
    for index in INDICES:
        single = index.removesuffix(".index.json")  # where it is there, the index does not count
        if not (directory / index).is_file() or (single != index and (directory / single).is_file()):
            continue
        named = named_in(index, (directory / index).read_bytes())
        missing = [name for name in named if not (directory / name).is_file()]
        if missing:
            raise CorruptCheckpointError(
                path=index,
                reason=f"names {len(missing)} files that are not there: {', '.join(missing[:5])}",
                hint="Put them beside it, or remove the index if the weights are in other files.",
            )
