"""What one file of weights holds, read without its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.checkpoints.tensors import StoredTensor
from raydsinfer.checkpoints.weights.headers import read_header
from raydsinfer.checkpoints.weights.pickles import read_pickle
from raydsinfer.errors import CorruptCheckpointError


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file of weights.

    Args:
        name: Within its directory.
        num_bytes: Its size.
        tensors: By name.
        tied: Groups of names that share one tensor.
    """

    name: str
    num_bytes: int
    tensors: Mapping[str, StoredTensor]
    tied: tuple[frozenset[str], ...]


def read_weight_file(directory: Path, name: str) -> WeightFile:
    """Read what a file says about its tensors.

    Raises:
        CorruptCheckpointError: It is truncated, unreadable, contradicts itself, or carries more than tensors.
    """
    path = directory / name
    tied: tuple[frozenset[str], ...] = ()
    if name.endswith(".safetensors"):
        tensors = read_header(path)
    else:
        tensors, tied = read_pickle(path)
    return WeightFile(name=name, num_bytes=path.stat().st_size, tensors=tensors, tied=tied)


def check_names(directory: Path, index: str, names: Iterable[str]) -> None:
    """Check that files that an index names are files of its directory; the index is data from elsewhere.

    Raises:
        CorruptCheckpointError: One lies outside, or is missing.
    """
    names = list(names)
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not outside and not (directory / name).is_file()]
    for bad, reason in ((outside, "names a file outside the model's directory"), (missing, "names a missing file")):
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise CorruptCheckpointError(
                path=str(directory / index),
                reason=f"{reason}: {', '.join(bad[:5])}{more}",
                hint="Fetch the model again.",
            )
