"""The one listing of a URL that a run stays with, as a text that goes where a commit does for the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raydsinfer.checkpoints.model_files import wanted_files
from raydsinfer.errors import CheckpointError

OURS = frozenset({"raydsinfer.json", "raydsinfer_reshard.json"})
"""Files beside a model that say nothing of what it is: our own settings for it, and where it was resharded from."""

_PREFIX = "listing"


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What the files behind a URL were when a run began.

    Args:
        content: The model's content, see `ModelContent`.
        small: Hash over names and stamps of configuration, tokenizer and code.
        weights: The same of the weights.
    """

    content: str
    small: str
    weights: str

    @classmethod
    def of(cls, stamps: Mapping[str, str], content: str) -> Pin:
        """The pin of a listing with weights.

        Args:
            stamps: File name → what changes when the file does.
            content: The model's content.
        """
        return cls(content=content, small=_small(stamps), weights=_weights(stamps))

    @classmethod
    def read(cls, revision: str | None) -> Pin | None:
        """What `revision` says; None if it is no pin, but a word for a hub."""
        prefix, *parts = (revision or "").split(":")
        if prefix != _PREFIX or len(parts) != 3:
            return None
        return cls(content=parts[0], small=parts[1], weights=parts[2])

    @property
    def revision(self) -> str:
        """Itself as a text; `read` takes it."""
        return ":".join((_PREFIX, self.content, self.small, self.weights))

    @property
    def name(self) -> str:
        """Its part of a file name."""
        return hashlib.sha256(f"{self.small}{self.weights}".encode()).hexdigest()[:16]

    def fits(self, stamps: Mapping[str, str], *, weights: bool) -> bool:
        """Whether these are the files that are meant.

        Args:
            stamps: File name → stamp.
            weights: Whether the weights are needed, too.
        """
        return _small(stamps) == self.small and (not weights or _weights(stamps) == self.weights)

    def require(self, stamps: Mapping[str, str], url: str, *, weights: bool) -> None:
        """Check the listing of a source.

        Args:
            stamps: As for `fits`.
            url: Of the source, for the error.
            weights: As for `fits`.

        Raises:
            CheckpointError: The files have changed.
        """
        if not self.fits(stamps, weights=weights):
            raise CheckpointError(
                path=url,
                reason="has changed since the run began, and this node has no copy of what it was",
                hint="Start the job again, in the same run directory: it answers with the model that is there now.",
            )


def _small(stamps: Mapping[str, str]) -> str:
    return _hash(stamps, wanted_files(stamps, weights=False))


def _weights(stamps: Mapping[str, str]) -> str:
    return _hash(stamps, stamps.keys() - set(wanted_files(stamps, weights=False)))


def _hash(stamps: Mapping[str, str], names: Iterable[str]) -> str:
    lines = sorted(f"{name}\0{stamps[name]}" for name in set(names) - OURS)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:32]
