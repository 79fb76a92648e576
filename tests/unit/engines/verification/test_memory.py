import logging

import pytest

from raydsinfer.engines.verification.memory import Memory


def test_remembers_what_was_right_and_nothing_else(tmp_path):
    memory = Memory(tmp_path / "cache", "a" * 64)
    assert not memory.holds()
    memory.keep({"rung": "static plain"})
    assert memory.holds()
    assert Memory(tmp_path / "cache", "a" * 64).holds()
    assert not Memory(tmp_path / "cache", "b" * 64).holds()
    assert len(list((tmp_path / "cache" / "verified").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"identity": "other"}', b"\xff", b"[" * 100_000])
def test_a_damaged_memory_is_none(tmp_path, content):
    memory = Memory(tmp_path, "a" * 64)
    memory.keep({})
    (tmp_path / "verified" / f"{'a' * 64}.json").write_bytes(content)
    assert not memory.holds()


def test_where_nothing_can_be_written_it_says_so_and_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file", "a" * 64)
    with caplog.at_level(logging.WARNING):
        memory.keep({})
    assert "it is checked at each start" in caplog.text
    assert not memory.holds()
