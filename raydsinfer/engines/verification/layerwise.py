"""A transformers model of which one decoder layer at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.engines import model as models
from raydsinfer.engines.verification.replay import Replay, set_tensor
from raydsinfer.errors import UnsupportedError


class LayerwiseModel:
    """Runs transformers' own modules, layer by layer, with weights that are read when they are needed.

    The layers run on the device; what is around them (embeddings, last norm, head), on the CPU, where it stays. For
    each layer the whole model is called again: layers before it give back what they gave, the layer itself runs, and
    ends the call. So transformers makes masks and positions for each as it always does.

    Args:
        model_config: The model's `transformers` configuration.
        dtypes: Of the models that run side by side on one reading of the weights. Weights are converted to the first,
            and from it to the others.
        reader: The weights.
        device: Where layers run.
        path: The checkpoint's name in errors.
        trust_remote_code: Whether Python code in the model's directory may run.
        on_layer: Called after each layer.

    Raises:
        UnsupportedError: The weights would have to be converted, or a parameter has none.
    """

    def __init__(
        self,
        model_config: Any,
        dtypes: Sequence[torch.dtype],
        reader: TensorReader,
        device: str,
        *,
        path: str,
        trust_remote_code: bool = False,
        on_layer: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader, self._device, self._on_layer = reader, device, on_layer
        self._dtype = dtypes[0]
        built = [models.build_meta(model_config, dtype, trust_remote_code=trust_remote_code) for dtype in dtypes]
        self._names = _stored_names(built[0], reader, path)
        self.replays = [Replay(model, _decoder_layers(model), device) for model in built]
        for replay in self.replays:
            self._fill_rest(replay)

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.replays[0].paths)

    def logits(self, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[list[torch.Tensor]]:
        """Logits of some positions of some batches.

        Args:
            batches: Token ids (rows, tokens), which may be padded on the right, and the positions that are wanted.

        Returns:
            For each dtype, for each batch (rows, positions, vocabulary), on the CPU.
        """
        for replay in self.replays:
            replay.begin(len(batches))
        for index, path in enumerate(self.replays[0].paths):
            weights = self._read(path, self.replays[0].layers[index])
            for replay in self.replays:
                with replay.filled(index, weights):
                    for number, (token_ids, positions) in enumerate(batches):
                        replay.run_layer(index, number, token_ids, positions)
            self._on_layer()
        return [[replay.finish(number, *batch) for number, batch in enumerate(batches)] for replay in self.replays]

    def _read(self, path: str, layer: nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: self._reader.read(self._names[f"{path}.{name}"]).to(self._device, self._dtype)
            for name, _ in layer.named_parameters(remove_duplicate=False)
        }

    def _fill_rest(self, replay: Replay) -> None:
        model = replay.model
        for name in models.stored_buffers(model):
            if name in self._names:
                set_tensor(model, name, self._reader.read(self._names[name]).clone(), "_buffers")
        for name, empty in list(model.named_parameters(remove_duplicate=False)):
            if not any(name.startswith(f"{path}.") for path in replay.paths):
                stored = self._reader.read(self._names[name]).to(self._dtype).to(empty.dtype)
                set_tensor(model, name, nn.Parameter(stored, requires_grad=False), "_parameters")


def _decoder_layers(model: nn.Module) -> list[str]:
    """Paths of the members of the outermost lists of modules."""
    paths = dict.fromkeys(models.layer_paths(model))

    def is_inside(path: str) -> bool:
        parts = path.split(".")
        return any(".".join(parts[:size]) in paths for size in range(1, len(parts)))

    return [path for path in paths if not is_inside(path)]


def _stored_names(model: nn.Module, reader: TensorReader, path: str) -> dict[str, str]:
    """Parameter or buffer → name in the checkpoint; tied parameters share one."""
    names = models.tensor_names(model, reader, path)
    for group in models.tied_names(model):
        stored = next((names[name] for name in sorted(group) if name in names), None)
        if stored is not None:
            names |= {name: stored for name in group if name not in names}
    missing = sorted(models.parameter_shapes(model).keys() - names.keys())
    if missing:
        raise UnsupportedError(
            what=f"a layer-by-layer reference of {path}",
            why=f"no tensor is stored for {missing[0]}",
            instead="Use the original weights, or a golden file.",
        )
    return names
