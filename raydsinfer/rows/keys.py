"""A row's key: what it asks for, and all that decides on its answer, in 16 bytes. No id column is needed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydsinfer.checkpoints.content import model_content
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import ConfigurationError, RowError
from raydsinfer.rows.canonical import canonical_bytes
from raydsinfer.rows.request import Row, is_missing, read_messages, read_settings

KEY_BYTES = 16
"""Among 10**10 rows two have the same key with a probability of about 10**-19."""

_VERSION = 1  # of the form of keys: another form must not find what this one stored
_SETTINGS = ("engine", "dtype", "kernel_inject", "max_tokens", "trust_remote_code")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")
_BEAMS = ("length_penalty", "early_stopping")


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What, besides a row and its generation settings, decides on the row's answer.

    Args:
        settings: Name → value: the model's content, and those engine settings that change texts. No secrets.
        model: The model's name, for people; not part of what is hashed, because a model may be moved.
        seed: Default seed of rows that are sampled.
        revision: What the gangs have to be given as the model's revision to use this content; not hashed.
    """

    settings: Mapping[str, str | int | bool]
    model: str = ""
    seed: int | None = None
    revision: str | None = None

    @property
    def digest(self) -> bytes:
        """16 bytes. The seed is not in them: it counts for rows that are sampled only."""
        return _hash(canonical_bytes([_VERSION, dict(self.settings)]))


def run_identity(spec: EngineSpec, *, use_gpu: bool | None = None) -> RunIdentity:
    """The identity of the runs of a model with an engine's settings.

    Not part of it is what only says where and how fast: number of ranks, batching, memory, caches. Texts may still
    differ in rare tokens between those, because sums are rounded in another order.

    Args:
        spec: Model and settings.
        use_gpu: Whether ranks have GPUs, which is what ``dtype="auto"`` and ``"int8"`` go by.

    Raises:
        CheckpointError: The model's files cannot be looked at.
    """
    config = spec.config
    settings: dict[str, str | int | bool] = {name: getattr(config, name) for name in _SETTINGS}
    if config.dtype == "auto" and use_gpu is not None and config.engine != "echo":
        settings["dtype"] = "auto on GPU" if use_gpu else "float32"
    if config.dtype == "int8" and use_gpu is not None and config.engine != "echo":
        settings["dtype"] = f"int8 on {'GPU' if use_gpu else 'CPU'}"  # activations differ
    revision = config.revision
    if config.engine != "echo":  # which has no model
        found = model_content(spec.model, revision=config.revision, hf_home=config.hf_home)
        settings |= {"model_kind": found.kind, "model_content": found.content}
        revision = found.revision or revision
    return RunIdentity(settings=settings, model=without_secrets(spec.model), seed=config.seed, revision=revision)


def row_key(row: Row, generation: GenerationConfig, identity: RunIdentity, distinct: str = "") -> bytes:
    """The key of one row; see `row_keys`.

    Args:
        row: Its cells.
        generation: Settings of the call.
        identity: Of the run.
        distinct: Sets equal rows apart, where each is to get an answer of its own.

    Returns:
        `KEY_BYTES` bytes.
    """
    return row_keys([row], generation, identity, [distinct])[0]


def row_keys(
    rows: Sequence[Row], generation: GenerationConfig, identity: RunIdentity, distinct: Sequence[str] | None = None
) -> list[bytes]:
    """The keys of rows: equal for rows whose answers are interchangeable, whatever becomes of the others.

    A key is made of what is used: the conversation or else the prompt; the settings of the call and of the row
    together, without those that they make idle (a seed without sampling); and the identity. Any cell will do, those
    of rows that cannot be answered included.

    Args:
        rows: Their cells.
        generation: Settings of the call.
        identity: Of the run.
        distinct: For each row what sets it apart from equal ones; None: nothing does.

    Returns:
        `KEY_BYTES` bytes a row.
    """
    # The shape decides on the columns of all rows, whatever they say themselves.
    shape = [generation.num_return_sequences > 1, generation.return_logprobs]
    start = hashlib.blake2b(digest_size=KEY_BYTES, person=b"raydsinfer row")
    start.update(_framed(identity.digest, canonical_bytes(shape)))
    of_cell = {canonical_bytes(None): canonical_bytes(["settings", _effective(generation, identity.seed)])}
    keys = []
    for row, apart in zip(rows, distinct if distinct is not None else [""] * len(rows), strict=True):
        digest = start.copy()
        cell = canonical_bytes(row.generation)  # rows have few different ones, and settings take long to check
        if cell not in of_cell:
            of_cell[cell] = _settings(row, generation, identity.seed)
        digest.update(_framed(_asked(row), of_cell[cell], canonical_bytes(apart)))
        keys.append(digest.digest())
    return keys


def settings_digest(identity: RunIdentity, generation: GenerationConfig) -> bytes:
    """16 bytes that say whether two calls would give every row the same key."""
    return _hash(identity.digest + canonical_bytes(_effective(generation, identity.seed)))


def _asked(row: Row) -> bytes:
    try:
        if is_missing(row.messages):
            return canonical_bytes(["prompt", row.prompt])
        return canonical_bytes(["messages", read_messages(row.messages)])
    except Exception:  # a cell that is no conversation, or raises when it is looked at
        return canonical_bytes(["no messages", row.messages])


def _settings(row: Row, call: GenerationConfig, default_seed: int | None) -> bytes:
    try:
        own = read_settings(row.generation)
        used = call.replaced(own) if own else call
    except (ConfigurationError, RowError):
        return canonical_bytes(["no settings", row.generation, _effective(call, default_seed)])
    except Exception:  # a cell that raises when it is looked at: equal to no other
        return secrets.token_bytes(KEY_BYTES)
    return canonical_bytes(["settings", _effective(used, default_seed)])


def _effective(generation: GenerationConfig, default_seed: int | None) -> dict[str, Any]:
    """Settings without those that change nothing, and written in one way."""
    settings = generation.model_dump()
    settings["stop_strings"] = sorted(set(generation.stop_list))
    if generation.seed is None:
        settings["seed"] = default_seed
    idle = (() if generation.do_sample else _SAMPLING) + (() if generation.num_beams > 1 else _BEAMS)
    return {name: value for name, value in settings.items() if name not in idle}


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=KEY_BYTES, person=b"raydsinfer run").digest()
