from __future__ import annotations

import base64
import hashlib
import json
from types import SimpleNamespace

import pytest

from raydsinfer.checkpoints.sources.checksums import Checksum, checksum_in, sums_in
from raydsinfer.errors import CorruptCheckpointError

DATA = b"weights"
MD5, SHA256 = hashlib.md5(DATA).digest(), hashlib.sha256(DATA).digest()  # noqa: S324


def in_base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("info", "algorithm"),
    [
        ({"md5Hash": in_base64(MD5), "crc32c": "AAAAAA=="}, "md5"),
        ({"Content-MD5": in_base64(MD5)}, "md5"),
        ({"Digest": f"crc32c=AAAAAA==, SHA-256={in_base64(SHA256)}"}, "sha256"),
        ({"lfs": {"sha256": SHA256.hex()}, "md5": MD5.hex()}, "sha256"),
        ({"content_settings": SimpleNamespace(content_md5=bytearray(MD5))}, "md5"),
        ({"content_settings": {"content_md5": None}, "sha256": SHA256.hex().upper()}, "sha256"),
    ],
)
def test_what_a_store_offers(info: dict[str, object], algorithm: str) -> None:
    checksum = checksum_in(info)
    assert checksum is not None
    assert checksum.algorithm == algorithm
    hasher = checksum.hasher()
    assert hasher is not None
    hasher.update(DATA)
    assert hasher.digest().hex() == checksum.digest


@pytest.mark.parametrize(
    "info",
    [
        {"size": 7, "ETag": f'"{MD5.hex()}"'},  # S3's is no checksum of the content where that is encrypted
        {"md5": "none"},
        {"md5": in_base64(SHA256)},
        {"Digest": "adler32=03da0195"},
        {"lfs": None},
    ],
)
def test_what_is_no_checksum(info: dict[str, object]) -> None:
    assert checksum_in(info) is None


def test_a_crc32c_is_known() -> None:
    assert checksum_in({"crc32c": "4waSgw=="}) == Checksum("crc32c", "e3069283")


def test_lines_of_sha256sum() -> None:
    digest = SHA256.hex()
    text = f"{digest}  model.safetensors\n{digest.upper()} *./config.json\n\n{digest}  with space.bin\n"
    expected = (None, Checksum("sha256", digest))
    names = ("model.safetensors", "config.json", "with space.bin")
    assert sums_in("SHA256SUMS", text.encode(), "x") == dict.fromkeys(names, expected)


def test_sums_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(CorruptCheckpointError, match=r"gs://b/SHA256SUMS: not in the form of sha256sum: 'abc  model"):
        sums_in("SHA256SUMS", b"abc  model.safetensors", "gs://b/SHA256SUMS")
    with pytest.raises(CorruptCheckpointError, match="not a readable index"):
        sums_in("raydsinfer_ranks.json", b"[]", "x")


def test_sums_of_the_per_rank_form() -> None:
    text = json.dumps({"files": {"model-rank-000.safetensors": {"bytes": 7, "sha256": SHA256.hex()}}}).encode()
    assert sums_in("raydsinfer_ranks.json", text, "x") == {
        "model-rank-000.safetensors": (7, Checksum("sha256", SHA256.hex()))
    }
