"""Computes references with plain transformers, in little memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from psutil import virtual_memory

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.engines import model as models
from raydsinfer.engines.out_of_memory import memory_shortage
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.layerwise import LayerwiseModel
from raydsinfer.engines.verification.reference import Reference, reference_of
from raydsinfer.errors import UnsupportedError, summary_of

logger = logging.getLogger(__name__)

_TIMES_FILES = 2.5  # of 16-bit files: the model in float32, and some room
_SHORT = 64  # tokens; sequences up to here are padded to one length, longer ones are read alone

Batches = list[tuple[torch.Tensor, torch.Tensor]]
Logits = list[list[torch.Tensor]]


@torch.no_grad()
def compute_references(
    directory: Path,
    canaries: Sequence[Canary],
    answers: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype,
    device: str,
    forbidden: Sequence[Collection[int]],
    scratch: Path | None = None,
    trust_remote_code: bool = False,
    on_layer: Callable[[], None] = lambda: None,
) -> list[Reference]:
    """The reference for each canary along the tokens that a gang answered: one forward pass.

    Args:
        directory: The model, as it was before it was cut for ranks if possible.
        canaries: Prompts.
        answers: New tokens of each.
        dtype: Of the gang: the weights are rounded to it, and how far it rounds logits is measured.
        device: Where to compute. What does not fit there is computed on the CPU.
        forbidden: For each new token those that must not come there.
        scratch: See `TensorReader`.
        trust_remote_code: Whether Python code in the model's directory may run.
        on_layer: Called after each decoder layer.

    Raises:
        UnsupportedError: transformers cannot read these weights, or not in this memory.
    """
    groups = _groups([len(c.token_ids) + len(a) for c, a in zip(canaries, answers, strict=True)])
    batches = [_batch([canaries[i] for i in group], [answers[i] for i in group]) for group in groups]
    dtypes = [dtype] if dtype == torch.float32 else [dtype, torch.float32]

    def logits(on: str) -> Logits:
        return _layerwise(directory, dtypes, batches, on, scratch, trust_remote_code, on_layer)

    try:
        found = _on_device_or_cpu(logits, device)
    except Exception as error:  # also what a model does that nobody here has seen yet
        logger.info("the reference takes the whole model in host memory: %s", summary_of(error))
        found = _whole(directory, dtypes, batches, trust_remote_code)
    if device != "cpu":
        torch.cuda.empty_cache()  # a layer's memory, which the gang can use
    references: dict[int, Reference] = {}
    for number, group in enumerate(groups):
        exact, first = found[-1][number], int(batches[number][1][0])
        for row, index in enumerate(group):
            start, size = len(canaries[index].token_ids) - 1 - first, len(answers[index])
            references[index] = reference_of(
                answers[index],
                exact[row, start : start + size],
                found[0][number][row, start : start + size] if len(found) > 1 else None,
                dtype=str(dtype).removeprefix("torch."),
                forbidden=forbidden,
            )
    return [references[index] for index in range(len(canaries))]


def _on_device_or_cpu(compute: Callable[[str], Logits], device: str) -> Logits:
    try:
        return compute(device)
    except Exception as error:
        if device == "cpu" or not memory_shortage(error):
            raise
        logger.warning("the reference is computed on the CPU, which is slow: %s", memory_shortage(error))
    torch.cuda.empty_cache()
    return compute("cpu")


def _layerwise(
    directory: Path,
    dtypes: Sequence[torch.dtype],
    batches: Batches,
    device: str,
    scratch: Path | None,
    trust_remote_code: bool,
    on_layer: Callable[[], None],
) -> Logits:
    description = describe(directory)
    # A fresh configuration: the engine changes its own.
    config = models.read_config(directory, trust_remote_code=trust_remote_code)
    with TensorReader(description, tp_size=description.tp_size or 1, scratch=scratch) as reader:
        model = LayerwiseModel(
            config,
            dtypes,
            reader,
            device,
            path=str(directory),
            trust_remote_code=trust_remote_code,
            on_layer=on_layer,
        )
        return model.logits(batches)


def _whole(directory: Path, dtypes: Sequence[torch.dtype], batches: Batches, trust_remote_code: bool) -> Logits:
    """The same with a model that transformers loads.

    Raises:
        UnsupportedError: It cannot, or there is no room for it.
    """
    instead = "Compare with a golden file, or use verify='off'."
    try:
        needed, free = _TIMES_FILES * sum(describe(directory).files.values()), virtual_memory().available
        if needed > free:
            why = f"it may take {needed / 1e9:.0f} GB of host memory, of which {free / 1e9:.0f} GB are free"
            raise UnsupportedError(what="a reference with the whole model", why=why, instead=instead)
        config: Any = models.read_config(directory, trust_remote_code=trust_remote_code)
        model = models.load_whole(directory, config, dtypes[0], trust_remote_code=trust_remote_code)
        found: Logits = []
        for dtype in dtypes:
            if dtype != dtypes[0]:  # else it would only round rotary frequencies
                model = model.to(dtype)
            logits = [model(input_ids=token_ids, use_cache=False).logits for token_ids, _ in batches]
            found.append([whole[:, positions] for whole, (_, positions) in zip(logits, batches, strict=True)])
    except UnsupportedError as error:
        what = "a reference for these weights"
        raise UnsupportedError(what=what, why=error.why, instead="Use verify='off'.") from error
    except Exception as error:
        why = f"transformers cannot compute it ({summary_of(error)})"
        raise UnsupportedError(what="a reference with the whole model", why=why, instead=instead) from error
    return found


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of sequences that are read together."""
    short = [index for index, length in enumerate(lengths) if length <= _SHORT]
    alone = [[index] for index, length in enumerate(lengths) if length > _SHORT]
    return [*([short] if short else []), *alone]


def _batch(canaries: Sequence[Canary], answers: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right, and all positions of which some row needs the logits."""
    rows = [[*c.token_ids, *a] for c, a in zip(canaries, answers, strict=True)]
    longest = max(len(row) for row in rows)
    token_ids = torch.tensor([row + [row[0]] * (longest - len(row)) for row in rows])
    first = min(len(canary.token_ids) for canary in canaries) - 1
    return token_ids, torch.arange(first, longest - 1)
