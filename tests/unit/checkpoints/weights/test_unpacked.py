from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.checkpoints.weights import unpacked
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.pickles import load_unmappable
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.checkpoints.weights.unpacked import load_unpacked
from raydsinfer.errors import CheckpointError, CorruptCheckpointError

BASE = torch.arange(12.0).reshape(3, 4)
STATE = {
    "base": BASE,
    "tied": BASE,
    "transposed": BASE.t(),
    "row": BASE[1],
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat16": torch.full((5,), 2, dtype=torch.bfloat16),
    "ints": torch.arange(7),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def old_pickle(path: Path, state: object = STATE) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def test_every_tensor_comes_back_from_the_copy(tmp_path: Path) -> None:
    path = old_pickle(tmp_path / "pytorch_model.bin")
    for _ in range(2):  # the first makes the copy
        tensors = load_unpacked(path, tmp_path / "scratch")
        assert list(tensors) == list(STATE)
        for name, tensor in STATE.items():
            assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(tensors[name], tensor)
        assert tensors["tied"].data_ptr() == tensors["base"].data_ptr()
        assert not tensors["parameter"].requires_grad


@pytest.mark.parametrize("scratch", [True, False])
def test_the_reader_reads_pickles_from_before_zip_archives(tmp_path: Path, scratch: bool) -> None:
    old_pickle(tmp_path / "pytorch_model.bin")
    description = describe(tmp_path)
    assert description.tied == (frozenset({"base", "tied"}),)
    with TensorReader(description, scratch=tmp_path / "scratch" if scratch else None) as reader:
        assert torch.equal(reader.read("base"), BASE)
        assert torch.equal(reader.parts("transposed", Slice(1, ((1, 3),)))[0], BASE.t()[:, 1:3])
    assert (tmp_path / "scratch").exists() == scratch


def test_the_copy_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = old_pickle(tmp_path / "a.bin"), tmp_path / "scratch"
    load_unpacked(path, scratch)
    monkeypatch.setattr(unpacked, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert torch.equal(load_unpacked(path, scratch)["base"], BASE)


def test_another_content_gets_another_copy(tmp_path: Path) -> None:
    path, scratch = old_pickle(tmp_path / "a.bin", {"t": torch.zeros(3)}), tmp_path / "scratch"
    load_unpacked(path, scratch)
    old_pickle(path, {"t": torch.ones(3)})
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1))
    assert torch.equal(load_unpacked(path, scratch)["t"], torch.ones(3))


def test_many_processes_share_one_copy_that_a_killed_one_left_half_made(tmp_path: Path) -> None:
    path, scratch = old_pickle(tmp_path / "a.bin", {"t": torch.arange(2.0**20)}), tmp_path / "scratch"
    code = (
        "import os, signal, sys; from pathlib import Path; from raydsinfer.checkpoints.weights import unpacked\n"
        "if sys.argv[3] == 'die': unpacked._read_into = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "print(unpacked.load_unpacked(Path(sys.argv[1]), Path(sys.argv[2]))['t'].sum().item())"
    )
    command = [sys.executable, "-c", code, str(path), str(scratch)]
    assert subprocess.run([*command, "die"], check=False, timeout=60).returncode == -9
    assert len(list(scratch.glob("*.part-*"))) == 1
    running = [subprocess.Popen([*command, "live"], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=100)[0].strip() for process in running] == [str(sum(range(2**20)) * 1.0)] * 3
    assert sorted(p.suffix for p in scratch.iterdir()) == [".json", ".lock", ".values"]


def test_unpacking_holds_no_values_in_anonymous_memory(tmp_path: Path) -> None:
    path = old_pickle(tmp_path / "a.bin", {f"t{i}": torch.ones(2**22) for i in range(8)})  # 128 MiB
    code = """
import sys, torch
from pathlib import Path
from raydsinfer.checkpoints.weights.unpacked import load_unpacked
from raydsinfer.checkpoints.weights.pickles import load_unmappable
resource = __import__("resource")
anonymous = lambda: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
load_unmappable(Path(sys.argv[1]), values=False)
before = anonymous()
tensors = load_unpacked(Path(sys.argv[1]), Path(sys.argv[2]))
print(anonymous() - before, sum(float(t.sum()) for t in tensors.values()))
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "scratch")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    grown, total = map(float, done.stdout.split())
    assert grown < 16
    assert total == 8 * 2**22


def test_a_scratch_directory_that_cannot_be_written(tmp_path: Path) -> None:
    path = old_pickle(tmp_path / "a.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"a\.bin: is of a form that has to be unpacked, and cannot be: .*file"):
        load_unpacked(path, tmp_path / "file" / "scratch")


def test_a_disk_without_room_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RLIMIT_FSIZE` would be a signal; a file system of 1 MiB needs root: the system call is made to fail."""
    path, scratch = old_pickle(tmp_path / "a.bin"), tmp_path / "scratch"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match=r"No space left on device .*Give it 0\.0 GB there"):
        load_unpacked(path, scratch)
    assert [p.suffix for p in scratch.iterdir()] == [".lock"]


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 40, 400, -1, -9])
def test_a_truncated_pickle_is_named(tmp_path: Path, keep: int, values: bool) -> None:
    path = old_pickle(tmp_path / "a.bin")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpointError, match=r"a\.bin: truncated or unreadable"):
        load_unmappable(path, values=values)
