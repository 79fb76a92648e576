"""Small JSON files: read as written, or not at all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.runs.records import End, IndexRecord, Manifest, checksum, parsed, written

MANIFEST = Manifest(
    settings="ab",
    num_rows=3,
    num_errors=1,
    num_retried=0,
    num_prompt_tokens=9,
    num_output_tokens=4,
    part_bytes=10,
    part_sum="cd",
    keys_bytes=72,
    keys_sum="ef",
    began_at=1.5,
    ended_at=2.5,
    num_restarts=0,
)


def test_records_come_back() -> None:
    index = IndexRecord(parts=["a"], num_rows=1, num_errors=0, num_bits=0, bucket_rows=[1])
    for record in (MANIFEST, index, End(ended_at=1.0, num_rows=2, num_errors=0)):
        assert parsed(type(record), written(record)) == record


@settings(deadline=None)
@given(st.integers(0, len(written(MANIFEST)) - 3))
def test_one_that_was_cut_off_is_none(length: int) -> None:
    assert parsed(Manifest, written(MANIFEST)[:length]) is None


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_anything_else_is_none(content: bytes) -> None:
    assert parsed(Manifest, content) is None


def test_changed_records_are_none() -> None:
    content = written(MANIFEST)
    for before, after in ((b'"num_rows": 3', b'"num_rows": "3"'), (b'"version": 1', b'"version": 2'), (b"{", b"[")):
        assert parsed(Manifest, content.replace(before, after)) is None
    assert parsed(Manifest, None) is None
    assert parsed(Manifest, content.replace(b"{", b'{"new": 0,')) == MANIFEST


def test_a_checksum_tells_bytes_apart() -> None:
    assert checksum(b"a") == checksum(b"a") != checksum(b"b")
