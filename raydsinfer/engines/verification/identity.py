"""What was checked: a model, on an engine, with these versions, on this kind of device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raydsinfer import __version__
from raydsinfer.checkpoints.content import model_content
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.ladder import Rung

# Settings that cannot change what is computed. Any that is not named here counts.
_IDLE = frozenset({
    "verify", "strict", "golden", "seed", "revision", "hf_home", "trust_remote_code", "longest_first", "engine",
    "echo_fault", "echo_delay_s", "gpu_memory_utilization", "kv_cache_bytes", "dtype",
})  # fmt: skip


def reference_identity(directory: Path, *, dtype: str, vocab_size: int, canaries: Sequence[Canary]) -> dict[str, str]:
    """What a reference depends on: it is of no use where any of this is another.

    Args:
        directory: The model.
        dtype: Of the gang.
        vocab_size: Tokens of the model.
        canaries: Prompts.

    Raises:
        CheckpointError: The model's files cannot be looked at.
    """
    return {
        "model": model_content(str(directory)).content,
        "transformers": _version("transformers"),
        "dtype": dtype,
        "vocabulary": str(vocab_size),
        "canaries": _hash([asdict(canary) for canary in canaries]),
    }


def engine_identity(
    reference: Mapping[str, str], original: Path, loaded: Path, rung: Rung, config: EngineConfig, context: RankContext
) -> str:
    """A name for all that decides on whether an engine is right; equal on nodes of a kind.

    Args:
        reference: `reference_identity`.
        original: The directory of the model.
        loaded: The directory that the weights come from, which may have been made from that one.
        rung: How the model runs.
        config: Inference settings.
        context: Where the rank stands.
    """
    settings = {name: value for name, value in config.model_dump().items() if name not in _IDLE}
    packages = ("torch", "transformers", "deepspeed", "flashinfer-python", "triton")
    found: dict[str, Any] = {
        **reference,
        "weights": reference["model"] if loaded == original else model_content(str(loaded)).content,
        "rung": rung,
        "settings": settings,
        "ranks": [context.world_size, context.num_nodes],
        "device": _device(context.device),
        "versions": {"raydsinfer": __version__, **{name: _version(name) for name in packages}},
    }
    return _hash(found)


def _device(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
