"""Golden files: references that were computed once, for nodes that should not do it again."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.reference import Reference, ReferenceStep
from raydsinfer.errors import GoldenFileError, OutputError

_FORMAT = 1
_MOST_BYTES = 64 * 2**20  # a thousand times what one holds
_AGAIN = "Write it again: raydsinfer verify MODEL --write-golden PATH."
_WORDS = {
    "model": "the content of the model's files",
    "transformers": "the version of transformers",
    "dtype": "dtype",
    "vocabulary": "the size of the vocabulary",
    "canaries": "the prompts, which follow from max_tokens, max_batch_size, special tokens and whether there are GPUs",
}


def golden_content(identity: Mapping[str, str], references: Sequence[Reference]) -> dict[str, Any]:
    """What a golden file holds.

    Args:
        identity: See `reference_identity`.
        references: One a canary.
    """
    return {"format": _FORMAT, "identity": dict(identity), "references": [asdict(found) for found in references]}


def write_golden(path: Path, content: Mapping[str, Any]) -> None:
    """Write a golden file, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_text(json.dumps(content) + "\n")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            path=str(path), reason=error.strerror or str(error), hint="Give a path in a directory that exists."
        ) from error


def read_golden(path: Path, identity: Mapping[str, str], canaries: Sequence[Canary]) -> list[Reference]:
    """The references of a golden file.

    Args:
        path: The file.
        identity: What they must be of.
        canaries: The prompts that they must be for.

    Raises:
        GoldenFileError: It cannot be read, is no golden file, or is one of another model, version or setting.
    """
    content = _content(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise GoldenFileError(path=str(path), reason=f"is no golden file of format {_FORMAT}", hint=_AGAIN)
    there = content.get("identity")
    there = there if isinstance(there, dict) else {}
    differing = [name for name, value in identity.items() if there.get(name) != value]
    if differing:
        told = "; ".join(f"{_WORDS[name]}{_values(name, there.get(name), identity[name])}" for name in differing)
        raise GoldenFileError(path=str(path), reason=f"was made for something else: {told}", hint=_AGAIN)
    try:
        references = [_reference(found) for found in content["references"]]
        for reference, canary in zip(references, canaries, strict=True):
            if not len(reference.steps) == len(reference.token_ids) == canary.num_new_tokens:
                raise ValueError("a reference of another length")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GoldenFileError(path=str(path), reason="is damaged", hint=_AGAIN) from error
    return references


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise GoldenFileError(path=str(path), reason="is far too large for a golden file", hint="Check the path.")
        return json.loads(path.read_bytes())
    except OSError as error:
        hint = "It must be readable on the node of rank 0."
        raise GoldenFileError(path=str(path), reason=f"cannot be read ({error.strerror})", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise GoldenFileError(path=str(path), reason="is not JSON", hint=_AGAIN) from error


def _values(name: str, there: object, wanted: str) -> str:
    return "" if name in ("model", "canaries") else f" ({str(there)[:40]} instead of {wanted})"


def _reference(found: Mapping[str, Any]) -> Reference:
    steps = tuple(
        ReferenceStep(
            best_ids=tuple(int(token) for token in step["best_ids"]),
            best_logprobs=tuple(float(value) for value in step["best_logprobs"]),
            rounding=float(step["rounding"]),
        )
        for step in found["steps"]
    )
    for step in steps:
        if not step.best_ids or len(step.best_ids) != len(step.best_logprobs) or not _is_rounding(step.rounding):
            raise ValueError("a step that is none")
    return Reference(token_ids=tuple(int(token) for token in found["token_ids"]), steps=steps)


def _is_rounding(value: float) -> bool:
    return math.isfinite(value) and value >= 0
