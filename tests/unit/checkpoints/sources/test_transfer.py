from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event, Timer

import pytest

from raydsinfer.checkpoints.sources.remote import RemoteFile, Store
from raydsinfer.checkpoints.sources.transfer import transfer
from raydsinfer.errors import CheckpointError, CorruptCheckpointError
from tests.web import WebModel, serving

SIZE = 500_000
WEIGHTS = os.urandom(SIZE)
NAME = "model.safetensors"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.CHUNK_BYTES", 65536)
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer._LEAST_BYTES", 4096)
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr("raydsinfer.checkpoints.sources.remote_errors.WAITS_S", (0.0, 0.0, 0.0))


@pytest.fixture
def web() -> WebModel:
    return WebModel({"config.json": b"{}", NAME: WEIGHTS})


@pytest.fixture
def store(web: WebModel) -> Iterator[Store]:
    with serving(web) as url:
        yield Store(url)


class Counted:
    """Bring the weights; keeps what was counted."""

    def __init__(self, store: Store, directory: Path, stop: Event | None = None) -> None:
        self.num_bytes = 0
        file = next(file for file in store.files() if file.name == NAME)
        self.fetched = transfer(store, file, directory, self._add, stop or Event())

    def _add(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes


def test_a_file_comes_in_pieces(web: WebModel, store: Store, tmp_path: Path) -> None:
    counted = Counted(store, tmp_path)
    assert (counted.fetched, counted.num_bytes) == (SIZE, SIZE)
    assert (tmp_path / NAME).read_bytes() == WEIGHTS
    assert web.num_bytes_sent == SIZE + 2  # and config.json
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_connections_that_break_are_resumed(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.breaks_after, web.num_breaks = 8192, 6
    counted = Counted(store, tmp_path)
    assert (counted.fetched, counted.num_bytes) == (SIZE, SIZE)
    assert (tmp_path / NAME).read_bytes() == WEIGHTS
    assert web.num_breaks == 0
    assert web.num_bytes_sent < SIZE + 6 * 3 * 8192


def test_a_server_that_breaks_every_long_answer_is_asked_for_less(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.breaks_after, web.num_breaks = 32768, 10**9
    Counted(store, tmp_path)
    assert (tmp_path / NAME).read_bytes() == WEIGHTS


def test_a_server_that_breaks_every_answer_is_given_up(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.breaks_after, web.num_breaks = 2, 10**9
    with pytest.raises(CheckpointError, match=rf"{NAME}: could not be fetched \(ClientPayloadError"):
        Counted(store, tmp_path)
    assert not (tmp_path / NAME).exists()
    assert web.asked_for(NAME) == 4


def test_a_server_that_knows_no_ranges(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.knows_ranges = False
    web.breaks_after, web.num_breaks = 200_000, 2
    counted = Counted(store, tmp_path)
    assert counted.num_bytes == SIZE
    assert (tmp_path / NAME).read_bytes() == WEIGHTS
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.part").write_bytes(WEIGHTS[:1000])
    assert Counted(store, tmp_path).num_bytes == SIZE
    assert (tmp_path / NAME).read_bytes() == WEIGHTS
    web.breaks_after, web.num_breaks = 200_000, 10**9
    with pytest.raises(CheckpointError, match="could not be fetched"):
        Counted(store, tmp_path / "other")


def test_a_server_that_tells_no_sizes(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.tells_size = False
    web.breaks_after, web.num_breaks = 200_000, 1
    assert Counted(store, tmp_path).num_bytes == SIZE
    assert (tmp_path / NAME).read_bytes() == WEIGHTS


def test_what_is_there_is_checked_too(web: WebModel, store: Store, tmp_path: Path) -> None:
    web.files["SHA256SUMS"] = f"{hashlib.sha256(WEIGHTS).hexdigest()}  {NAME}\n".encode()
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(b"x" + WEIGHTS[1:300_000])
    with pytest.raises(CorruptCheckpointError, match="its sha256 is"):
        Counted(store, tmp_path)
    assert list(tmp_path.iterdir()) == []
    part.write_bytes(WEIGHTS[:300_000])
    counted = Counted(store, tmp_path)
    assert (counted.fetched, counted.num_bytes) == (SIZE - 300_000, SIZE)
    assert (tmp_path / NAME).read_bytes() == WEIGHTS


def test_more_than_there_should_be_is_thrown_away(store: Store, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(WEIGHTS + b"more")
    assert Counted(store, tmp_path).num_bytes == SIZE
    assert (tmp_path / NAME).read_bytes() == WEIGHTS


def test_a_file_that_becomes_shorter_is_not_taken_for_whole(web: WebModel, store: Store, tmp_path: Path) -> None:
    file = next(file for file in store.files() if file.name == NAME)
    web.files[NAME] = WEIGHTS[:300_000]
    with pytest.raises(CorruptCheckpointError, match="300000 bytes came instead of 500000"):
        transfer(store, file, tmp_path, lambda _: None, Event())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file(tmp_path: Path) -> None:
    file = RemoteFile(name="a/empty.txt", key="", num_bytes=0, stamp="")
    assert transfer(Store("memory://bucket"), file, tmp_path, lambda _: None, Event()) == 0
    assert (tmp_path / "a" / "empty.txt").read_bytes() == b""


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_stopping_keeps_what_has_arrived(web: WebModel, store: Store, tmp_path: Path, knows_ranges: bool) -> None:
    web.knows_ranges, stop = knows_ranges, Event()
    stop.set()
    with pytest.raises(CancelledError):
        Counted(store, tmp_path, stop)
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / f"{NAME}.part").exists()


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_waiting_ends_when_it_is_not_worth_it_any_more(
    web: WebModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_ranges: bool
) -> None:
    monkeypatch.setattr("raydsinfer.checkpoints.sources.transfer.WAITS_S", (60.0,))
    web.knows_ranges, web.breaks_after, web.num_breaks, stop = knows_ranges, 2, 10**9, Event()
    timer, started = Timer(0.5, stop.set), time.monotonic()
    timer.start()
    with pytest.raises(CancelledError):
        Counted(store, tmp_path, stop)
    timer.join()
    assert 0.4 < time.monotonic() - started < 30
