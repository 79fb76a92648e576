"""What a run directory says of itself: small JSON files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

R = TypeVar("R")

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """`run.json`: that this is a run directory.

    Args:
        created_by: Name and version of what made it.
        identity: What the first job's rows were answered with, for people.
        format: Always the same.
        version: Of the layout.
    """

    created_by: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    format: Literal["raydsinfer run"] = "raydsinfer run"
    version: int = VERSION


@dataclass(frozen=True, kw_only=True)
class Start:
    """A job that started.

    Args:
        settings: Hash of identity and generation settings: jobs with equal ones share their rows.
        began_at: When, seconds since the epoch.
        num_rows: Rows that it has to answer; None if it does not know.
        identity: What its rows are answered with, for people; no secrets.
        generation: Settings of the call, for people.
        created_by: Name and version of the program.
    """

    settings: str
    began_at: float
    num_rows: int | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = ""


@dataclass(frozen=True, kw_only=True)
class End:
    """A job that answered all its rows.

    Args:
        ended_at: When, seconds since the epoch.
        num_rows: Its rows, those that were there before included.
        num_errors: Those among them that failed.
    """

    ended_at: float
    num_rows: int
    num_errors: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A part that counts.

    Args:
        settings: As in `Start`, of the job that wrote it.
        num_rows: Rows of the part.
        num_errors: Those that failed.
        num_retried: Rows that had failed in an earlier part.
        num_prompt_tokens: Of all rows together.
        num_output_tokens: Of all rows and their sequences together.
        part_bytes: Size of its rows' file.
        part_sum: Checksum of that.
        keys_bytes: Size of its keys' file.
        keys_sum: Checksum of that.
        began_at: When work on the rows began, seconds since the epoch.
        ended_at: When it was done.
        num_restarts: Restarts of the gang since its last commit.
        version: Of this form.
    """

    settings: str
    num_rows: int
    num_errors: int
    num_retried: int
    num_prompt_tokens: int
    num_output_tokens: int
    part_bytes: int
    part_sum: str
    keys_bytes: int
    keys_sum: str
    began_at: float
    ended_at: float
    num_restarts: int
    version: Literal[1] = 1


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """An index that is whole.

    Args:
        parts: Ids of the parts in it; places name them by number.
        num_rows: Different keys.
        num_errors: Those that failed.
        num_bits: Of a key, that say which bucket it is in.
        bucket_rows: Keys in each bucket.
        version: Of this form.
    """

    parts: list[str]
    num_rows: int
    num_errors: int
    num_bits: int
    bucket_rows: list[int]
    version: Literal[1] = 1


_ADAPTERS: Mapping[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Header, Start, End, Manifest, IndexRecord)
}


def parsed(kind: type[R], content: bytes | None) -> R | None:
    """A record; None if the bytes are not one: truncated, changed, or of another version."""
    if content is None:
        return None
    try:
        record: R = _ADAPTERS[kind].validate_json(content, strict=True)
    except ValidationError:
        return None
    return record


def written(record: Any) -> bytes:
    """The bytes of a record."""
    return (json.dumps(asdict(record), indent=1) + "\n").encode()


def checksum(content: bytes) -> str:
    """What tells that a file is as it was written: not against forgers, against disks."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
