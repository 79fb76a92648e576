"""The small files of a model that a reshard takes along: configuration, tokenizer, templates, code, licences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.model_files import CHECKSUMS_FILE, INDICES, wanted_files
from raydsinfer.checkpoints.resharding.manifest import MANIFEST
from raydsinfer.errors import CorruptCheckpointError

_TEMPLATES = "additional_chat_templates"
_ABOUT = ("LICENSE", "NOTICE", "README.md")
# They say which file holds which tensor, and what the files add up to: of the source, not of the copy.
_OF_THE_SOURCE = {*INDICES, CHECKSUMS_FILE, MANIFEST}


def extra_files(directory: Path) -> list[str]:
    """Names of the small files of a model that stay what they are, whatever its weights look like."""
    top = [path.name for path in directory.iterdir() if path.is_file()]
    templates = [f"{_TEMPLATES}/{path.name}" for path in (directory / _TEMPLATES).glob("*") if path.is_file()]
    about = [name for name in top if name.startswith(_ABOUT)]
    return sorted({*wanted_files([*top, *templates], weights=False), *about} - _OF_THE_SOURCE)


def copy_extras(source: Path, target: Path, names: Iterable[str], dtype: str | None) -> None:
    """Copy small files; a new dtype is written into the configuration.

    Args:
        source: Where they are.
        target: Where they go.
        names: What `extra_files` found.
        dtype: What the weights became; None if they stayed what they were.

    Raises:
        CorruptCheckpointError: The configuration has to be changed but cannot be read.
        OSError: The disk does not take them.
    """
    for name in names:
        (target / name).parent.mkdir(exist_ok=True)
        if name == "config.json" and dtype is not None:
            (target / name).write_text(json.dumps(with_dtype(read_model_config(source), dtype), indent=2) + "\n")
        else:
            shutil.copyfile(source / name, target / name)


def read_model_config(directory: Path) -> dict[str, Any]:
    """The model's configuration as it stands in its file; empty if it has none.

    Raises:
        CorruptCheckpointError: It cannot be read.
    """
    path = directory / "config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CorruptCheckpointError(
            path=str(path), reason=f"not readable ({error})", hint="Fetch the model again."
        ) from error


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A configuration that names another dtype, also in the parts that name one themselves."""

    def changed(content: dict[str, Any]) -> dict[str, Any]:
        return {
            key: dtype if key in ("dtype", "torch_dtype") else changed(value) if isinstance(value, dict) else value
            for key, value in content.items()
        }

    new = changed(config)
    return new if {"dtype", "torch_dtype"} & set(new) else {**new, "dtype": dtype}
