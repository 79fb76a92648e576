"""The files of a model, and what a node would have to bring of them. No weights are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.checkpoints.model_files import is_weights, wanted_files
from raydsinfer.checkpoints.sources.fetch import copy_of_url, local_directory, local_path
from raydsinfer.checkpoints.sources.hub import HubModel
from raydsinfer.checkpoints.sources.remote import Store
from raydsinfer.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files of a model.

    Args:
        files: Name → bytes and id of the content, which may be empty.
        commit: Of the hub; None elsewhere.
        complete: Whether the source could be asked; if not, only what is here is known.
    """

    files: Mapping[str, tuple[int, str]]
    commit: str | None = None
    complete: bool = True

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(size for size, _ in self.files.values())

    @property
    def weights(self) -> dict[str, int]:
        """Name → bytes, of the files that hold weights."""
        return {name: size for name, (size, _) in self.files.items() if is_weights(name)}


def list_files(model: str, *, revision: str | None = None, hf_home: str | None = None) -> Listing:
    """What a model consists of, by its source's own listing; of the hub's cache where the hub cannot be asked.

    Args:
        model: Local directory, URL or hub name.
        revision: As for `fetch`.
        hf_home: As for `fetch`.

    Raises:
        CheckpointNotFoundError: There is no such model.
        CheckpointError: Its source cannot be read.
    """
    local = local_path(model)
    if local is not None:
        return Listing(files=_in_directory(local))
    if "://" in model:
        return Listing(files={file.name: (file.num_bytes or 0, file.stamp) for file in Store(model).files()})
    hub = _hub_model(model, revision, hf_home)
    try:
        commit, files = hub.listed()
    except CheckpointError:
        small = local_directory(model, revision=revision, hf_home=hf_home, weights=False)
        return Listing(files=_in_directory(small), commit=small.name, complete=False)
    return Listing(files=files, commit=commit)


def bytes_to_bring(model: str, listing: Listing, *, revision: str | None = None, hf_home: str | None = None) -> int:
    """Bytes that this node's cache lacks of a model; 0 if all is here. Asks nobody but the disk.

    Args:
        model: As for `list_files`.
        listing: What it consists of.
        revision: As for `fetch`.
        hf_home: As for `fetch`.

    Raises:
        CheckpointNotFoundError: A local directory that is not on this node.
    """
    if local_path(model) is not None:
        return 0
    if "://" in model:
        return 0 if copy_of_url(model, hf_home).is_whole() else listing.num_bytes
    missing = _hub_model(model, revision, hf_home).missing(listing.files, listing.commit)
    return sum(listing.files[name][0] for name in missing)


def _hub_model(model: str, revision: str | None, hf_home: str | None) -> HubModel:
    return HubModel(name=model, revision=revision, cache=Path(hf_home).expanduser() / "hub" if hf_home else None)


def _in_directory(directory: Path) -> dict[str, tuple[int, str]]:
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return {name: ((directory / name).stat().st_size, "") for name in wanted_files(names)}
