"""transformers models: read their configuration, build them with weights or without memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.config import Dtype
from raydsinfer.engines.capabilities import dtype_problem
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnsupportedError,
    WeightsMismatchError,
    summary_of,
)


def read_config(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """The model's `transformers` configuration.

    Raises:
        CheckpointError: There is none, or this version of transformers does not know it.
    """
    from transformers import AutoConfig

    if not (directory / "config.json").is_file():
        raise CheckpointNotFoundError(
            path=str(directory), reason="no config.json", hint="Give the directory that save_pretrained wrote."
        )
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # OSError, ValueError, KeyError, JSONDecodeError, …
        raise CheckpointError(
            path=str(directory / "config.json"),
            reason=f"transformers cannot use it ({summary_of(error)})",
            hint="Check the file and the transformers version; models with their own code need trust_remote_code.",
        ) from error


def resolve_dtype(dtype: Dtype, model_config: Any, device: str) -> torch.dtype:
    """The torch dtype of activations: what `auto` means for a model on a device, also beside int8 weights.

    Raises:
        UnsupportedError: The device does not compute with it.
    """
    if dtype not in ("auto", "int8"):
        resolved: torch.dtype = getattr(torch, dtype)
        if device != "cpu" and (problem := dtype_problem(dtype, torch.cuda.get_device_capability(device))):
            raise UnsupportedError(what=f"dtype={dtype!r} here", why=problem, instead="Use dtype='float16'.")
        return resolved
    if device == "cpu":
        return torch.float32
    saved_as_bfloat16 = getattr(model_config, "dtype", None) == torch.bfloat16
    if saved_as_bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def build_meta(model_config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> nn.Module:
    """A model whose parameters take no memory; its buffers, which no checkpoint holds, are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = build(model_config, dtype, trust_remote_code=trust_remote_code)
    tie: Any = model
    tie.tie_weights()  # building on meta gives each tied name a parameter of its own
    return model


def build(model_config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> nn.Module:
    """A model as transformers initialises it, on torch's default device."""
    from transformers import AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config  # has no annotations
    model: nn.Module = make(model_config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval()


def load_whole(directory: Path, model_config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> nn.Module:
    """A model with its weights in host memory, read by transformers.

    Raises:
        UnsupportedError: The weights were cut for ranks.
        CorruptCheckpointError: A file is missing or unreadable.
        WeightsMismatchError: Parameters were not filled, or tensors fitted nothing.
    """
    from transformers import AutoModelForCausalLM

    description = describe(directory)
    _require_whole(description)
    load: Any = AutoModelForCausalLM.from_pretrained  # the annotation does not know `output_loading_info`
    try:
        model, info = load(
            directory,
            config=model_config,
            dtype=dtype,
            use_safetensors=description.form == "safetensors",
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # SafetensorError, UnpicklingError, OSError, RuntimeError, …
        raise CorruptCheckpointError(
            path=str(directory),
            reason=f"transformers cannot load it ({summary_of(error)})",
            hint="Fetch the model again, and check the transformers version.",
        ) from error
    problems = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys")}
    if any(problems.values()):
        raise WeightsMismatchError(
            path=str(directory), never_filled=problems["missing_keys"], nothing_took=problems["unexpected_keys"]
        )
    whole: nn.Module = model.eval()
    return whole


def _require_whole(description: Description) -> None:
    if description.form in ("safetensors", "bin"):
        return
    kernels = " and kernel_inject=True" if description.form == "deepspeed" else ""
    raise UnsupportedError(
        what=f"loading {description.directory} whole",
        why=f"its weights were cut for tensor-parallel size {description.tp_size}, which transformers cannot read",
        instead=f"Use DeepSpeed with use_meta_tensor=True{kernels}, or the original weights.",
    )


def tensor_names(model: nn.Module, stored: Iterable[str], path: str) -> dict[str, str]:
    """Which tensor of a checkpoint belongs to which parameter, by transformers' own rules.

    Args:
        model: The model before DeepSpeed changed it.
        stored: Names in the checkpoint; older checkpoints have other names, or leave out the prefix.
        path: The checkpoint's name in errors.

    Returns:
        Parameter name → name in the checkpoint.

    Raises:
        UnsupportedError: A tensor would have to be converted, not only renamed.
        WeightsMismatchError: Two tensors belong to one parameter.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    transforms: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    renamings = [t for t in transforms if not isinstance(t, WeightConverter)]
    state = model.state_dict()
    names: dict[str, str] = {}
    for name in stored:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)  # type: ignore[arg-type]
        if pattern is not None and name not in state:
            raise UnsupportedError(
                what=f"use_meta_tensor=True for {path}",
                why=f"transformers converts {name} while loading, which is more than a new name",
                instead="Use use_meta_tensor=False.",
            )
        parameter = name if name in state else target
        if parameter in names:
            raise WeightsMismatchError(
                path=path,
                reason=f"two tensors belong to {parameter}, and which one is right cannot be known",
                nothing_took=sorted([name, names[parameter]]),
                hint="Remove one of them from the checkpoint.",
            )
        names[parameter] = name
    return names


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter, by each of its names."""
    return {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}


def layer_paths(model: nn.Module) -> list[str]:
    """Paths of the decoder layers: the members of the model's lists of modules."""
    lists = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [f"{path}.{index}" for path, module in lists for index in range(len(module))]


def tied_names(model: nn.Module) -> list[set[str]]:
    """Groups of parameter names that share one parameter."""
    groups: dict[int, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups[id(parameter)].add(name)
    return [names for names in groups.values() if len(names) > 1]


def tie_again(model: nn.Module, tied: Iterable[set[str]]) -> None:
    """Let parameters share one tensor that shared one before, where they still have the same shape.

    Moving a model off the meta device gives each name memory of its own.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for group in tied:
        first, *others = sorted(group & set(parameters))
        for name in others:
            parent, _, child = name.rpartition(".")
            if parameters[name].shape == parameters[first].shape:
                setattr(model.get_submodule(parent), child, parameters[first])


def copy_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of a model, by name: rotary frequencies and the like."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def stored_buffers(model: nn.Module) -> set[str]:
    """Names of the buffers that belong into a checkpoint."""
    return {name for name, _ in model.named_buffers()} & set(model.state_dict())


def restore_buffers(model: nn.Module, buffers: dict[str, torch.Tensor], device: str) -> None:
    """Put buffers back, in their own dtype.

    DeepSpeed empties the buffers of a model that was built on meta, and rounds rotary frequencies
    to the dtype of the weights, which transformers does not: text would differ.
    """
    names = {name for name, _ in model.named_buffers()}
    for name in names & set(buffers):
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._buffers[child] = buffers[name].to(device)
