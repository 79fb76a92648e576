"""Models with random weights that are written once and found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raydsinfer.bench.random_model import Form, write_random_model
from raydsinfer.errors import OutputError, summary_of


def stored_model(
    target: Path, config: Mapping[str, Any], form: Form, tell: Callable[[str], None], *, same_layers: bool
) -> Path:
    """The directory of a model of random weights; written now if it is not there yet.

    Args:
        target: Where it is, or goes; half a model is never found there.
        config: As `config.json` has it.
        form: Of the weights.
        tell: Gets a line of words if it is written.
        same_layers: Whether all layers are the same, which is faster to write.

    Raises:
        OutputError: There is no place for it.
    """
    if target.exists():
        return target
    tell(f"writing random weights to {target}")
    part = target.with_name(f"{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_random_model(part, config, form, same_layers=same_layers)
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        hint = "Choose another directory; the model takes its size there once for each form."
        raise OutputError(path=str(target), reason=summary_of(error), hint=hint) from error
    return target
