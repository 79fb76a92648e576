"""Checksums of files, in the words of those who publish them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from raydsinfer.checkpoints.model_files import CHECKSUMS_FILE
from raydsinfer.errors import CorruptCheckpointError

# Keys of fsspec's `info` that hold a checksum of the content. An ETag is none: S3 makes it in several ways.
_INFO_KEYS = {"sha256": "sha256", "md5": "md5", "md5Hash": "md5", "Content-MD5": "md5", "crc32c": "crc32c"}
_NUM_BYTES = {"sha256": 32, "md5": 16, "crc32c": 4}
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")


class Hasher(Protocol):
    """What counts a checksum up."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True)
class Checksum:
    """What a file's content has to come to.

    Args:
        algorithm: ``sha256``, ``md5`` or ``crc32c``.
        digest: In hexadecimal, lower case.
    """

    algorithm: str
    digest: str

    def hasher(self) -> Hasher | None:
        """Something that counts it up; None if this environment cannot."""
        if self.algorithm == "crc32c":
            return _crc32c()
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digest}"


def checksum_in(info: Mapping[str, Any]) -> Checksum | None:
    """The best checksum that a file system gives with a file, if it gives any.

    Args:
        info: What fsspec's `info` or `find` returns for it.
    """
    offered = {algorithm: info[key] for key, algorithm in _INFO_KEYS.items() if info.get(key)}
    # The hub, Azure and HTTP's Digest header hide theirs a level deeper.
    offered.setdefault("sha256", _at(info, "lfs", "sha256") or _sha256_of_digest_header(info.get("Digest")))
    offered.setdefault("md5", _at(info, "content_settings", "content_md5"))
    for algorithm in ("sha256", "md5", "crc32c"):
        digest = _hex(offered.get(algorithm), _NUM_BYTES[algorithm])
        if digest:
            return Checksum(algorithm, digest)
    return None


def sums_in(name: str, text: bytes, path: str) -> dict[str, tuple[int | None, Checksum]]:
    """What a file beside the weights says of them: file name → bytes, if it says so, and checksum.

    Args:
        name: `CHECKSUMS_FILE` or `RANKS_INDEX`.
        text: What it holds.
        path: Where it is from, for the error.

    Raises:
        CorruptCheckpointError: It is not of its form: files would go unchecked.
    """
    return dict(_of_sha256sum(text, path) if name == CHECKSUMS_FILE else _of_ranks_index(text, path))


def _of_sha256sum(text: bytes, path: str) -> Iterator[tuple[str, tuple[None, Checksum]]]:
    for line in filter(str.strip, text.decode(errors="replace").splitlines()):
        found = _LINE.fullmatch(line.rstrip())
        if found is None:
            raise CorruptCheckpointError(
                path=path, reason=f"not in the form of sha256sum: {line[:80]!r}", hint="Write it again, or remove it."
            )
        yield found[2], (None, Checksum("sha256", found[1].lower()))


def _of_ranks_index(text: bytes, path: str) -> Iterator[tuple[str, tuple[int, Checksum]]]:
    try:
        for name, file in json.loads(text)["files"].items():
            yield name, (int(file["bytes"]), Checksum("sha256", file["sha256"].lower()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(
            path=path, reason=f"not a readable index ({error})", hint="Make the per-rank form again."
        ) from error


def _at(info: Mapping[str, Any], outer: str, inner: str) -> Any:
    held = info.get(outer)
    return held.get(inner) if isinstance(held, Mapping) else getattr(held, inner, None)


def _sha256_of_digest_header(header: object) -> str | None:
    found = re.search(r"sha-256=([A-Za-z0-9+/]+=*)", str(header), flags=re.IGNORECASE)
    return found[1] if found else None


def _hex(digest: Any, num_bytes: int) -> str | None:
    """A digest given as bytes, in hexadecimal or in base64."""
    if isinstance(digest, (bytes, bytearray)):
        raw = bytes(digest)
    elif isinstance(digest, str) and re.fullmatch(rf"[0-9a-fA-F]{{{2 * num_bytes}}}", digest):
        raw = bytes.fromhex(digest)
    elif isinstance(digest, str):
        try:
            raw = base64.b64decode(digest, validate=True)
        except binascii.Error:
            return None
    else:
        return None
    return raw.hex() if len(raw) == num_bytes else None


def _crc32c() -> Hasher | None:
    try:
        google_crc32c = import_module(
            "google_crc32c"
        )  # comes with gcsfs, whose store is the one that gives this checksum
    except ImportError:
        return None
    counted: Hasher = google_crc32c.Checksum()
    return counted
