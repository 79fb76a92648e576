"""Checkpoints of made-up models: any size, quickly written, no model needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.tensors import WHOLE, Slice


def tensors(*, num_layers: int = 3, width: int = 16, dtype: str = "float32") -> dict[str, Any]:
    """Tensors of a model by name; values are small numbers that differ from place to place."""
    import torch

    shapes = {"model.embed.weight": (40, width), "model.norm.weight": (width,)}
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.attn.weight": (width, width),
            f"{prefix}.mlp.up.weight": (4 * width, width),
            f"{prefix}.mlp.down.weight": (width, 4 * width),
            f"{prefix}.mlp.up.bias": (4 * width,),
        }
    generator = torch.Generator().manual_seed(7)
    kind: torch.dtype = getattr(torch, dtype)
    return {name: torch.randn(shape, generator=generator).to(kind) for name, shape in shapes.items()}


def write(directory: Path, state: dict[str, Any], *, form: str = "safetensors", num_files: int = 2) -> Path:
    """Write tensors as a checkpoint whose layers are spread over several files; returns `directory`.

    Args:
        directory: Made if need be.
        state: The tensors.
        form: ``safetensors``, ``bin`` or ``old`` (pickles from before zip archives).
        num_files: How many; tensors go to them in turn.
    """
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    stem, suffix = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for i in range(num_files):
        name = f"{stem}-{i + 1:05d}-of-{num_files:05d}.{suffix}"
        part = dict(list(state.items())[i::num_files])
        if form == "safetensors":
            save_file(part, directory / name, metadata={"format": "pt"})
        else:
            torch.save(part, directory / name, _use_new_zipfile_serialization=form == "bin")
        weight_map |= dict.fromkeys(part, name)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps({"model_type": "made-up", "torch_dtype": "float32"}))
    (directory / "tokenizer.model").write_bytes(b"a tokenizer")
    return directory


def uneven_rules(state: dict[str, Any]) -> dict[str, tuple[Slice, ...]]:
    """What three ranks keep: uneven ranges, several ranges, ranges twice, columns, and whole tensors."""
    width = state["model.norm.weight"].shape[0]
    rows = (Slice(0, ((0, 3),)), Slice(0, ((3, 5), (9, width))), Slice(0, ((5, 9), (0, 1))))
    quarters = (width, 2 * width, 4 * width)
    columns = (
        Slice(1, ((0, quarters[0]),)),
        Slice(1, ((quarters[0], quarters[1]), (quarters[1] + 3, quarters[2]))),
        Slice(1, ((quarters[1], quarters[1] + 3),)),
    )
    long_rows = tuple(Slice(0, part.ranges) for part in columns)
    cuts = {"attn.weight": rows, "up.weight": long_rows, "up.bias": long_rows, "down.weight": columns}
    return {name: cuts.get(".".join(name.split(".")[-2:]), (WHOLE,) * 3) for name in state}


def part_of(tensor: Any, part: Slice) -> Any:
    """A part of a tensor, cut by torch."""
    import torch

    if part.dim is None:
        return tensor
    return torch.cat([tensor.narrow(part.dim, start, stop - start) for start, stop in part.ranges], dim=part.dim)
