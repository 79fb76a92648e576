"""Fills DeepSpeed's fused layers from weights that DeepSpeed wrote for its ranks, in the form of those layers.

A gang of as many ranks copies each tensor as it is. For a gang of another size the parts of the original tensors are
looked up within the fused ones, joined and cut anew: what lies where is asked from DeepSpeed, for both sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.tensors import gathered
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.engines import model as models
from raydsinfer.engines.account import Account
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.copying import Copier, Copy, reader_threads
from raydsinfer.engines.deepspeed_fill import ignorable_names
from raydsinfer.engines.deepspeed_kernels.injected_layer import injected_layers
from raydsinfer.engines.deepspeed_layout import InjectedLayout, injected_layout
from raydsinfer.engines.deepspeed_slices import Shapes
from raydsinfer.engines.meter import Meter
from raydsinfer.errors import EngineError, UnsupportedError

_HINT = "Check config.json: DeepSpeed wrote the weights from another model, or another version of DeepSpeed did."

Layers = Sequence[tuple[str, nn.Module]]


def filled_from_presharded(
    description: Description,
    model: Any,
    context: RankContext,
    *,
    replace: Callable[[Any], Any],
    scratch: Path,
    meter: Meter,
) -> Any:
    """A model whose decoder layers DeepSpeed replaces, and whose weights DeepSpeed wrote.

    Args:
        description: The weights.
        model: The transformers model, on meta.
        context: Where this rank stands.
        replace: Lets DeepSpeed replace the layers.
        scratch: Directory on this node for copies of pickles that cannot be mapped.
        meter: Counts the bytes that are filled.

    Raises:
        CheckpointError: The weights are unreadable, or do not fit the model.
        EngineError: DeepSpeed failed.
    """
    path = str(description.directory)
    with ExitStack() as stack:
        # Before the model is replaced: its buffers are pinned meanwhile.
        copier = stack.enter_context(Copier(context.device, reader_threads(context.local_world_size), meter.add))
        readers = tuple(
            stack.enter_context(TensorReader(description, rank=rank, tp_size=description.tp_size or 1, scratch=scratch))
            for rank in range(description.tp_size or 1)
        )
        names = _tensor_names(model, list(description.tensors), path)
        tied, shapes, buffers = models.tied_names(model), models.parameter_shapes(model), models.copy_buffers(model)
        stored = {name: names[name] for name in models.stored_buffers(model) if name in names}
        buffers |= {name: readers[0].read(source).clone() for name, source in stored.items()}
        account, ignorable = Account(path, names, tied, hint=_HINT), ignorable_names(model, buffers)
        model = replace(model)
        models.tie_again(model, tied)
        rank, world_size = context.world_rank, context.world_size
        layers = injected_layers(model)
        layout = injected_layout(layers, shapes, rank, world_size)
        for _, layer in layers:
            layout.drop_others(layer)
        filler = _Filler(
            readers=readers, account=account, shapes=shapes, layout=layout, rank=rank, world_size=world_size
        )
        sources = filler.sources(model, layers)
        account.close(ignorable)
        meter.start("weights", sum(parameter.nbytes for parameter in model.parameters()))
        copier.wait(copier.start(filler.copies(model, layers, sources)))
        copier.finish()
        meter.add(0)  # all of it has arrived now
    models.restore_buffers(model, buffers, context.device)
    return model


def _tensor_names(model: nn.Module, stored: Sequence[str], path: str) -> dict[str, str]:
    """Which tensor belongs to which parameter; transformers does not know those of fused layers."""
    paths = tuple(f"{layer}." for layer in models.layer_paths(model))
    fused = [name for name in stored if name.startswith(paths)]
    others = [name for name in stored if not name.startswith(paths)]
    return {**models.tensor_names(model, others, path), **{name: name for name in fused}}


@dataclass(frozen=True, kw_only=True)
class _Filler:
    """Finds what fills each parameter.

    Args:
        readers: The weights of each rank that they were written for.
        account: Which tensor belongs to which parameter.
        shapes: Shape of each of the model's parameters before layers were replaced.
        layout: Of this rank's fused layers.
        rank: World rank.
        world_size: Number of ranks.
    """

    readers: Sequence[TensorReader]
    account: Account
    shapes: Shapes
    layout: InjectedLayout
    rank: int
    world_size: int

    @property
    def _stored_size(self) -> int:
        return len(self.readers)

    @property
    def _same_size(self) -> bool:
        return self._stored_size == self.world_size

    def sources(self, model: nn.Module, layers: Layers) -> dict[str, str]:
        """Parameter name → tensor name; what is missing or does not fit is noted."""
        fused = tuple(f"{path}." for path, _ in layers)
        found = {name: (p, self.account.take(name)) for name, p in model.named_parameters()}
        return {
            name: source
            for name, (parameter, source) in found.items()
            if source is not None and self._fits(name, parameter, source, fused=name.startswith(fused))
        }

    def _fits(self, name: str, parameter: torch.Tensor, source: str, *, fused: bool) -> bool:
        dtype = str(self._own.read(source).dtype).removeprefix("torch.")
        if not self.account.converts(name, dtype, floating=parameter.is_floating_point()):
            return False
        want = tuple(parameter.shape)
        if fused and not self._same_size:
            want = _of_other_size(want, self._own.shape(source), self.world_size, self._stored_size)
        return self.account.fits(name, self._own.shape(source), want)

    @property
    def _own(self) -> TensorReader:
        return self.readers[self.rank if self._same_size else 0]

    def copies(self, model: nn.Module, layers: Layers, sources: Mapping[str, str]) -> Iterator[Copy]:
        """What to copy where."""
        fused = () if self._same_size else tuple(f"{path}." for path, _ in layers)
        for name, parameter in model.named_parameters():
            if not name.startswith(fused):
                yield Copy(parameter.data, [self._own.read(sources[name])])
        if fused:
            with self._cutting():
                yield from self._cut_anew(layers, sources)

    @contextmanager
    def _cutting(self) -> Iterator[None]:
        """Say what to do where DeepSpeed's layout of this family cannot be cut anew."""
        try:
            yield
        except (EngineError, ValueError) as error:
            raise UnsupportedError(
                what=f"weights that DeepSpeed wrote for {self._stored_size} ranks on {self.world_size}",
                why=f"they cannot be cut anew ({error})",
                instead=f"Use num_workers={self._stored_size}, or the original weights.",
            ) from error

    def _cut_anew(self, layers: Layers, sources: Mapping[str, str]) -> Iterator[Copy]:
        want = self.layout
        have = [
            injected_layout(
                [(layers[0][0], self._stored(layers[0], rank, sources))], self.shapes, rank, self._stored_size
            )
            for rank in range(self._stored_size)
        ]
        slices = {leaf: [layout.slices[leaf] for layout in have] for leaf in want.slices}
        for layer in layers:
            stored = [layout.places(self._stored(layer, rank, sources)) for rank, layout in enumerate(have)]
            for leaf, place in want.places(layer[1]).items():
                dim, spans = gathered(want.slices[leaf], slices[leaf], self.shapes[f"{layer[0]}.{leaf}"])
                parts = [stored[span.owner][leaf].narrow(dim, span.start, span.stop - span.start) for span in spans]
                yield Copy(place, parts, dim)

    def _stored(self, layer: tuple[str, nn.Module], rank: int, sources: Mapping[str, str]) -> nn.Module:
        """What is stored of a fused layer for a rank, to be asked as the layer itself would be."""
        path, module = layer
        return _with(module, {name: self.readers[rank].read(sources[f"{path}.{name}"]) for name in _names(module)})


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def _with(module: nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> nn.Module:
    """Modules that are named as those of a layer, and have these tensors for parameters."""
    copy = nn.Module()
    for name, parameter in module._parameters.items():
        tensor = None if parameter is None else nn.Parameter(tensors[prefix + name], requires_grad=False)
        copy.register_parameter(name, tensor)
    for name, child in module.named_children():
        copy.add_module(name, _with(child, tensors, f"{prefix}{name}."))
    return copy


def _of_other_size(shape: Sequence[int], have: Sequence[int], world_size: int, stored_size: int) -> tuple[int, ...]:
    """The shape that a rank's parameter has among `stored_size` ranks: one dimension may be cut, `have` says which."""
    cut = [dim for dim, (ours, theirs) in enumerate(zip(shape, have, strict=False)) if ours != theirs]
    if len(cut) != 1 or shape[cut[0]] * world_size % stored_size:
        return tuple(shape)
    (dim,) = cut
    return (*shape[:dim], shape[dim] * world_size // stored_size, *shape[dim + 1 :])
