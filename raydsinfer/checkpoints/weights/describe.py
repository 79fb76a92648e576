"""Describes weights, whatever their form, without reading them: headers and indices only."""

from __future__ import annotations

from pathlib import Path

from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.presharded import PRESHARDED_INDEX, describe_presharded
from raydsinfer.checkpoints.weights.ranks_files import describe_ranks
from raydsinfer.checkpoints.weights.ranks_index import RANKS_INDEX
from raydsinfer.checkpoints.weights.whole_files import describe_whole_files, find_whole_files, shards_without_index
from raydsinfer.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError

# Weights that other programs read.
_FOREIGN = {
    ".gguf": "llama.cpp",
    ".ggml": "llama.cpp",
    ".msgpack": "Flax",
    ".h5": "TensorFlow",
    ".ckpt": "TensorFlow or Lightning",
    ".onnx": "ONNX",
    ".pt": "a training program",
    ".pth": "a training program",
}


def describe(directory: Path) -> Description:
    """Say which tensor is where, and check that every file is there and is what it says.

    Forms, the first that is found: cut by `raydsinfer reshard`; safetensors, single or in shards;
    `.bin`, single or in shards; cut by DeepSpeed.

    Raises:
        CheckpointNotFoundError: There is no such directory.
        CheckpointError: It has no weights that can be read.
        CorruptCheckpointError: A file is missing, truncated or unreadable, or contradicts another.
    """
    if not directory.is_dir():
        raise CheckpointNotFoundError(path=str(directory), reason="no such directory on this node")
    if (directory / RANKS_INDEX).is_file():
        return describe_ranks(directory)
    whole = find_whole_files(directory)
    if whole:
        return describe_whole_files(whole)
    if (directory / PRESHARDED_INDEX).is_file():
        return describe_presharded(directory)
    raise _no_weights(directory)


def _no_weights(directory: Path) -> CheckpointError:
    headless = shards_without_index(directory)
    if headless:
        index, shards = headless
        reason = f"has {len(shards)} shards like {shards[0]} but not their index, {index}"
        return CorruptCheckpointError(path=str(directory), reason=reason, hint="Fetch the model again.")
    found = sorted(path.name for path in directory.iterdir())
    foreign = sorted({_FOREIGN[suffix] for suffix in {Path(name).suffix for name in found} if suffix in _FOREIGN})
    listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    made_for = f", weights for {' and '.join(foreign)}" if foreign else ""
    expected = "Expected model.safetensors or pytorch_model.bin, whole or in shards with their index"
    convert = "; convert the model with save_pretrained." if foreign else "."
    return CheckpointError(
        path=str(directory), reason=f"no weights: found {listed or 'nothing'}{made_for}", hint=expected + convert
    )
