"""Fills a model that was built without memory, slice by slice, and accounts for each tensor.

DeepSpeed's own loader reads whole pickled files on every rank, and passes silently over what does
not match. Here a rank reads of each tensor the part that it keeps, straight from the mapped file to
its device, to where it stays; host and device memory hold a few staging buffers beside the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.engines.account import Account
from raydsinfer.engines.copying import Copier, Copy
from raydsinfer.engines.deepspeed_layout import injected_layout
from raydsinfer.engines.deepspeed_slices import Shapes, autotp_slices


@dataclass(frozen=True, kw_only=True)
class Filler:
    """Brings slices of a checkpoint's tensors into parameters.

    Args:
        reader: The checkpoint.
        account: Which tensor belongs to which parameter.
        shapes: Shape of each parameter before anything was sliced.
        copier: Copies to the device.
        begin: Told how many bytes there are to copy, just before the first.
    """

    reader: TensorReader
    account: Account
    shapes: Shapes
    copier: Copier
    begin: Callable[[int], None]

    def plan(self, name: str, parameter: torch.Tensor, wanted: Slice) -> Copy | None:
        """What to copy into a parameter; None, and noted, if there is nothing that fits."""
        source = self.account.take(name)
        if source is None or not self.account.fits(name, self.reader.shape(source), self.shapes[name]):
            return None
        if not self.account.fits(name, wanted.shape_of(self.shapes[name]), parameter.shape):
            return None
        parts = self.reader.parts(source, wanted)
        dtype = str(parts[0].dtype).removeprefix("torch.")
        if not self.account.converts(name, dtype, floating=parameter.is_floating_point()):
            return None
        return Copy(parameter.data, parts, wanted.dim or 0)

    def run(self, plans: Iterable[Copy | None], num_bytes: int) -> None:
        """Copy what there is; `num_bytes` are those of all parameters."""
        self.begin(num_bytes)
        self.copier.wait(self.copier.start(plan for plan in plans if plan))


def fill_autotp(model: nn.Module, filler: Filler, rank: int) -> None:
    """Fill a model whose linear layers DeepSpeed's AutoTP has replaced by slices."""
    slices = autotp_slices(model, filler.shapes, rank)
    parameters = dict(model.named_parameters())
    plans = [filler.plan(name, parameter, slices[name]) for name, parameter in parameters.items()]
    filler.run(plans, sum(p.nbytes for p in parameters.values()))


def fill_injected(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], filler: Filler, rank: int, world_size: int
) -> None:
    """Fill a model whose decoder layers DeepSpeed has replaced by fused ones.

    Args:
        model: The model.
        layers: Path and module of each fused layer.
        filler: The checkpoint.
        rank: World rank.
        world_size: Number of ranks.

    Raises:
        EngineError: DeepSpeed replaced no layer, or the fused ones are not made as expected.
    """
    layout = injected_layout(layers, filler.shapes, rank, world_size)
    for _, layer in layers:
        layout.drop_others(layer)
    paths = tuple(f"{path}." for path, _ in layers)
    parameters = dict(model.named_parameters())
    targets = {name: (p.data, WHOLE) for name, p in parameters.items() if not name.startswith(paths)}
    for path, layer in layers:
        places = layout.places(layer).items()
        targets |= {f"{path}.{leaf}": (place, layout.slices[leaf]) for leaf, place in places}
    plans = [filler.plan(name, place, wanted) for name, (place, wanted) in targets.items()]
    filler.run(plans, sum(p.nbytes for p in parameters.values()))


def ignorable_names(model: nn.Module, buffers: Iterable[str]) -> Callable[[str], bool]:
    """Which tensors of a checkpoint a model knowingly leaves: its buffers, and what its class lists."""
    # Older checkpoints of rotary models hold the frequencies of each layer, which are computed today.
    listed = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []), r"rotary_emb\.inv_freq$"]
    patterns = [re.compile(pattern) for pattern in listed]
    known = set(buffers)

    def ignorable(name: str) -> bool:
        return name in known or any(pattern.search(name) for pattern in patterns)

    return ignorable
