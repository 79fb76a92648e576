"""Weights that DeepSpeed wrote for a number of ranks: `ds_inference_config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.weights.description import Description, LogicalTensor, Piece
from raydsinfer.checkpoints.weights.weight_file import WeightFile, check_names, read_weight_file
from raydsinfer.checkpoints.weights.whole_files import WholeFiles, describe_whole_files, whole_tensors
from raydsinfer.errors import CorruptCheckpointError, UnsupportedError

PRESHARDED_INDEX = "ds_inference_config.json"


@dataclass(frozen=True, kw_only=True)
class PreshardedIndex:
    """What DeepSpeed's loader is told.

    Args:
        model_type: ``bloom`` or ``ds_model``.
        base_dir: Where the files are: DeepSpeed does not look beside the index.
        whole: Files with tensors that all ranks have whole.
        cut: The other files: the first of each rank, then the second of each, and so on.
        tp_size: Number of ranks.
        dtype: Of the weights.
    """

    model_type: str
    base_dir: str
    whole: tuple[str, ...]
    cut: tuple[str, ...]
    tp_size: int
    dtype: str


def write_presharded_index(directory: Path, index: PreshardedIndex) -> None:
    """Write `ds_inference_config.json`, as DeepSpeed's `save_mp_checkpoint_path` does."""
    content = {
        "type": index.model_type,
        "base_dir": index.base_dir,
        "checkpoints": {"non_tp": index.whole, "tp": index.cut},
        "version": 1.0,
        "parallelization": "tp",
        "tp_size": index.tp_size,
        "dtype": index.dtype,
    }
    (directory / PRESHARDED_INDEX).write_text(json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """What the configuration lists.

    Args:
        whole: Files with tensors that all ranks have whole.
        by_rank: By rank, its files; empty if nothing is cut.
        dtype: Of the weights, as DeepSpeed says it; empty if it does not.
    """

    whole: tuple[str, ...]
    by_rank: tuple[tuple[str, ...], ...] = ()
    dtype: str = ""


def describe_presharded(directory: Path) -> Description:
    """Describe weights that have a `ds_inference_config.json`.

    The tensors are those of DeepSpeed's fused layers, under their names; how they were cut is known
    to DeepSpeed alone.

    Raises:
        CorruptCheckpointError: A file is missing or unreadable, or the ranks' files differ in what they hold.
        UnsupportedError: The weights are quantised.
    """
    path = directory / PRESHARDED_INDEX
    lists = _read_lists(path)
    if lists.dtype == "int8":
        raise UnsupportedError(
            what=f"loading {directory}",
            why="DeepSpeed quantised its weights to int8 before it wrote them",
            instead="Use weights in float16 (microsoft/bloom-deepspeed-inference-fp16 instead of -int8).",
        )
    names = (*lists.whole, *(name for files in lists.by_rank for name in files))
    check_names(directory, PRESHARDED_INDEX, names)
    if not lists.by_rank:
        return describe_whole_files(WholeFiles(directory, tuple(dict.fromkeys(names)), PRESHARDED_INDEX))
    files = {name: read_weight_file(directory, name) for name in dict.fromkeys(names)}
    ranks = [_of_rank(directory, [files[name] for name in of_rank]) for of_rank in lists.by_rank]
    tensors = {name: _cut(path, name, ranks) for name in dict.fromkeys(name for rank in ranks for name in rank)}
    for name in lists.whole:
        for twin in sorted(set(tensors) & set(files[name].tensors)):
            raise _corrupt(path, f"tensor {twin} is both in {name} and in {tensors[twin].pieces[0].tensor.file}")
        tensors |= whole_tensors(files[name])
    return Description(
        directory=directory,
        form="deepspeed",
        tensors=tensors,
        files={name: file.num_bytes for name, file in files.items()},
        tp_size=len(ranks),
        tied=tuple(group for name in lists.whole for group in files[name].tied),
    )


def _of_rank(directory: Path, files: list[WeightFile]) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    for file in files:
        for name, stored in file.tensors.items():
            if name in pieces:
                reason = f"tensor {name} is both in {pieces[name].tensor.file} and in {file.name}"
                raise _corrupt(directory / PRESHARDED_INDEX, reason)
            pieces[name] = Piece(stored, None)
    return pieces


def _cut(path: Path, name: str, ranks: list[dict[str, Piece]]) -> LogicalTensor:
    lacking = [rank for rank, pieces in enumerate(ranks) if name not in pieces]
    if lacking:
        raise _corrupt(path, f"the files of rank {lacking[0]} lack tensor {name}, which other ranks have")
    pieces = tuple(pieces[name] for pieces in ranks)
    dtypes = {piece.tensor.dtype for piece in pieces}
    if len(dtypes) > 1:
        raise _corrupt(path, f"tensor {name} differs in its dtype between ranks: {', '.join(sorted(dtypes))}")
    first = pieces[0].tensor
    return LogicalTensor(name=name, dtype=first.dtype, shape=first.shape, pieces=pieces)


def _read_lists(path: Path) -> _Lists:
    try:
        content = json.loads(path.read_bytes())
        listed, dtype = content["checkpoints"], str(content.get("dtype", ""))
        cut = content.get("parallelization") == "tp" or isinstance(listed, dict)
        if not cut:
            return _Lists(whole=_names(listed), dtype=dtype)
        files = _names(listed["tp"] if isinstance(listed, dict) else listed)
        whole = _names(listed.get("non_tp", [])) if isinstance(listed, dict) else ()
        tp_size = content.get("mp_size", content.get("tp_size", len(files)))
        if type(tp_size) is not int or tp_size < 1 or not files or len(files) % tp_size:
            raise ValueError(f"{len(files)} files for {tp_size} ranks")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"not a readable list of files ({type(error).__name__}: {error})") from error
    return _Lists(whole=whole, by_rank=tuple(files[rank::tp_size] for rank in range(tp_size)), dtype=dtype)


def _names(listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("checkpoints are no list of file names")
    return tuple(listed)


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Write it again, or use the original weights.")
