"""Weights on disk for the tests of this folder, in every form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.ranks_index import FileSum, RankedTensor, RanksIndex, write_ranks_index

State = Mapping[str, torch.Tensor]

ONE: State = {"a": torch.arange(6.0).reshape(2, 3)}
TWO: State = {"b.c": torch.ones(4, dtype=torch.float16)}


def write_file(path: Path, state: Mapping[str, Any], **options: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path, **options)
    return path


def write_shards(directory: Path, suffix: str, states: Sequence[State] = (ONE, TWO), **options: Any) -> Path:
    """Write a sharded checkpoint; returns its index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, state in enumerate(states, 1):
        path = directory / f"{stem}-{number:05}-of-{len(states):05}.{suffix}"
        write_file(path, state, **options)
        weight_map.update(dict.fromkeys(state, path.name))
    index = directory / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def take(tensor: torch.Tensor, part: Slice) -> torch.Tensor:
    """What a part should be, by plain indexing."""
    if part.dim is None:
        return tensor
    indices = [index for start, stop in part.ranges for index in range(start, stop)]
    return tensor.index_select(part.dim, torch.tensor(indices, dtype=torch.int64)).contiguous()


def write_ranks(directory: Path, state: State, rules: Mapping[str, Sequence[Slice]], tp_size: int) -> Path:
    """Write weights cut for ranks; tensors without a rule are shared. Returns the index."""
    shared = {name: tensor for name, tensor in state.items() if name not in rules}
    files = {"model-shared-00001-of-00001.safetensors": shared}
    for rank in range(tp_size):
        name = f"model-rank-{rank:03}-of-{tp_size:03}-00001-of-00001.safetensors"
        files[name] = {tensor: take(state[tensor], parts[rank]) for tensor, parts in rules.items()}
    for name, tensors in files.items():
        write_file(directory / name, tensors)
    names = list(files)
    index = RanksIndex(
        tp_size=tp_size,
        source={},
        tensors={
            name: RankedTensor.cut(
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                slices=tuple(rules.get(name, (WHOLE,) * tp_size)),
            )
            for name, tensor in state.items()
        },
        files={
            name: FileSum(
                bytes=(directory / name).stat().st_size, sha256=sha256((directory / name).read_bytes()).hexdigest()
            )
            for name in names
        },
        shared=dict.fromkeys(shared, names[0]),
        by_rank=tuple(dict.fromkeys(rules, name) for name in names[1:]),
    )
    return write_ranks_index(directory, index)


def write_presharded(directory: Path, cut: Sequence[Sequence[Mapping[str, Any]]], whole: State) -> Path:
    """Write what DeepSpeed's save_mp_checkpoint_path writes: ``cut[part][rank]``. Returns the configuration."""
    write_file(directory / "non-tp.pt", whole)
    for part, ranks in enumerate(cut):
        for rank, state in enumerate(ranks):
            write_file(directory / f"tp_{rank:02}_{part:02}.pt", state)
    tp_size = len(cut[0])
    listed = [f"tp_{rank:02}_{part:02}.pt" for part in range(len(cut)) for rank in range(tp_size)]
    path = directory / "ds_inference_config.json"
    content = {
        "type": "ds_model",
        "base_dir": "/where/it/was/written",
        "checkpoints": {"non_tp": ["non-tp.pt"], "tp": listed},
        "version": 1.0,
        "parallelization": "tp",
        "tp_size": tp_size,
        "dtype": "float16",
    }
    path.write_text(json.dumps(content))
    return path
