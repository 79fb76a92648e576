from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from raydsinfer.checkpoints.sources.download import download
from raydsinfer.checkpoints.sources.fetch import fetch
from raydsinfer.checkpoints.sources.remote import RemoteFile, Store
from raydsinfer.errors import CheckpointError
from tests.web import WebModel, serving

ROOT = Path(__file__).parents[4]
WEIGHTS = os.urandom(1_000_000)


def test_room_is_looked_for_before_the_first_byte(tmp_path: Path) -> None:
    store = Store("memory://bucket")
    file = RemoteFile(name="model.safetensors", key="/bucket/m", num_bytes=10**18, stamp="")
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(CheckpointError) as caught:
        download(store, [file], tmp_path)
    assert caught.value.path == str(tmp_path)
    assert caught.value.reason.startswith("1000000.0 TB more are needed there, and ")
    assert free > 0
    assert list(tmp_path.iterdir()) == []


def test_one_file_that_fails_stops_the_others(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/bucket/several/config.json", b"{}")
    store = Store("memory://bucket/several")
    absent = [RemoteFile(name=f"{i}.bin", key=f"/bucket/several/{i}.bin", num_bytes=9, stamp="") for i in range(20)]
    with pytest.raises(CheckpointError, match=r"/bucket/several/\d+.bin: no such place"):
        download(store, [*store.files(), *absent], tmp_path)
    assert not list(tmp_path.glob("*.bin"))


def test_a_caller_that_fails_ends_the_fetch(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/one/config.json", b"{}")

    def failing(done: int, total: int) -> None:
        if done:
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        fetch("memory://bucket/one", target=tmp_path / "copy", on_progress=failing)
    assert not (tmp_path / "copy").exists()


LIMITED = """
import resource, sys
from pathlib import Path
from raydsinfer.checkpoints.sources.fetch import fetch
from raydsinfer.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    fetch(sys.argv[1], target=Path(sys.argv[2]))
except CheckpointError as error:
    print(error)
"""

ON_A_SMALL_DISK = """
import sys
from pathlib import Path
from raydsinfer.checkpoints.sources import transfer
from raydsinfer.checkpoints.sources.fetch import fetch
from raydsinfer.errors import CheckpointError
transfer.CHUNK_BYTES = 65536
disk = Path(sys.argv[2])
ballast = (disk / "ballast").open("wb", buffering=0)
def another_fills_the_disk(done, total):
    try:
        while done and ballast.write(bytes(4096)): ...
    except OSError:
        pass
for fill in (another_fills_the_disk, None, None):
    try:
        print("fetched", fetch(sys.argv[1], target=disk / "copy", on_progress=fill).num_fetched_bytes)
    except CheckpointError as error:
        print(error)
        assert not (disk / "copy").exists()
    if fill is None:
        ballast.truncate(0)
    print((disk / ".copy.part" / "model.safetensors.part").exists())
print((disk / "copy" / "model.safetensors").read_bytes() == Path(sys.argv[3]).read_bytes())
"""


def test_a_file_that_the_system_lets_grow_no_further(tmp_path: Path) -> None:
    web = WebModel({"config.json": b"{}", "model.safetensors": WEIGHTS})
    with serving(web) as url:
        run = subprocess.run(
            [sys.executable, "-c", LIMITED, url, str(tmp_path / "copy")], cwd=ROOT, capture_output=True, text=True
        )
        assert "the disk is full: " in run.stdout, run
        assert not (tmp_path / "copy").exists()
        assert (tmp_path / ".copy.part" / "model.safetensors.part").stat().st_size == 300_000
        assert fetch(url, target=tmp_path / "copy").num_fetched_bytes <= 700_002
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_disk_that_fills_in_the_middle(tmp_path: Path) -> None:
    disk, reference = tmp_path / "disk", tmp_path / "reference"
    disk.mkdir()
    reference.write_bytes(WEIGHTS)
    inside = 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"'
    own_mounts = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh", str(disk)]
    if not shutil.which("unshare") or subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    web = WebModel({"config.json": b"{}", "model.safetensors": WEIGHTS})
    with serving(web) as url:
        command = [sys.executable, "-c", ON_A_SMALL_DISK, url, str(disk), str(reference)]
        run = subprocess.run([*own_mounts, *command], cwd=ROOT, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 7, run
    filling, part, full, _, fetched, gone, right = lines
    assert "the disk is full: " in filling
    assert "more are needed there. Make room and fetch again" in filling
    needed = int(re.findall(r"the disk is full: (\d+)\.. kB more are needed there", full)[0])
    assert 0 < needed < 1000
    assert fetched.startswith("fetched ")
    assert (part, gone, right) == ("True", "False", "True")
