"""A process that is killed between any two steps leaves all of a batch or nothing of it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.store import RunStore
from tests.runs import answers_to, begun, commit, found, keys_of

# Each child is killed before another of the steps by which it changes the run directory: a file is opened for
# writing, renamed or removed, a folder is made, or opened after a renaming.
KILLED_AT_EACH_STEP = """
import os, sys
from pathlib import Path
import numpy, pyarrow.parquet, raydsinfer.runs.store
from tests.runs import begun, commit, found

def child(run_dir, step, tell):
    left = step
    def hook(event, args):
        nonlocal left
        writes = event == "open" and (args[1] is None or args[2] & (os.O_WRONLY | os.O_RDWR))
        if (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")) and run_dir in str(args):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
    sys.addaudithook(hook)
    store = begun(run_dir)
    commit(store, range(10))
    os.write(tell, b"c")
    assert len(found(store, range(20))) == 10
    commit(store, range(10, 20))
    os.write(tell, b"c")
    assert len(found(store, range(20))) == 20
    store.finish(num_rows=20, num_errors=0)
    os.write(tell, b"f")
    os._exit(0)

step, outcomes = 0, set()
while True:
    run_dir = str(Path(sys.argv[1]) / str(step))
    hear, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            child(run_dir, step, tell)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    os.close(tell)
    told = os.read(hear, 10)
    os.close(hear)
    assert status in (0, 9), status
    store = begun(run_dir, resume=True)
    there = found(store, range(30))
    assert list(there) in ([], list(range(10)), list(range(20))), (step, list(there))
    assert len(there) >= 10 * told.count(b"c"), (step, told, len(there))
    assert all(text == f"answer {n}" for n, text in there.items())
    assert store.status().num_done == len(there)
    missing = [n for n in range(30) if n not in there]
    commit(store, missing)
    assert len(found(store, range(30))) == 30
    outcomes.add((len(there), told))
    if not status:
        break
    step += 1
print(step, sorted(outcomes))
"""


def test_a_writer_that_is_killed_at_any_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = int(done.stdout.split()[0])
    assert steps > 30
    # Among them are those that had committed, but had not heard of it.
    for outcome in ("(0, b'')", "(10, b'')", "(10, b'c')", "(20, b'c')", "(20, b'cc')", "(20, b'ccf')"):
        assert outcome in done.stdout


class Unreliable(MemoryFileSystem):  # type: ignore[misc]
    """A store far away, that fails for good after some writes, the last of which may be cut off."""

    protocol = "unreliable"
    store: dict[str, Any] = {}  # noqa: RUF012  (fsspec's way to share)
    pseudo_dirs = [""]  # noqa: RUF012
    num_left, cuts = 0, False

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        if Unreliable.num_left <= 0:
            if Unreliable.cuts:
                super().pipe_file(path, value[: len(value) // 2], **kwargs)
            raise PermissionError("the store says no")
        Unreliable.num_left -= 1
        super().pipe_file(path, value, **kwargs)


fsspec.register_implementation("unreliable", Unreliable, clobber=True)


@pytest.mark.parametrize("cuts", [False, True])
def test_a_store_far_away_that_fails_at_any_write(cuts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unreliable, "cuts", cuts)
    for writes in range(12):
        url = f"unreliable://{uuid.uuid4().hex}"
        monkeypatch.setattr(Unreliable, "num_left", writes)
        num_committed = 0
        try:
            store = begun(url)
            for start in (0, 10):
                commit(store, range(start, start + 10))
                num_committed += 10
                store.build_index()
        except RunDirectoryError as error:
            assert "the store says no" in str(error)  # noqa: PT017
        monkeypatch.setattr(Unreliable, "num_left", 100)
        if writes == 0 and cuts:  # the header is half there, and says so
            with pytest.raises(RunDirectoryError, match="remove the file"):
                begun(url, resume=True)
            continue
        store = begun(url, resume=True)
        there = found(store, range(30))
        assert list(there) == list(range(num_committed))
        commit(store, [n for n in range(30) if n not in there])
        assert len(found(store, range(30))) == 30


def test_a_failed_commit_can_be_tried_again(tmp_path: Path) -> None:
    store = begun(tmp_path / "run")
    (tmp_path / "run" / "keys").rename(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="No such file or directory"):
        commit(store, range(10))
    (tmp_path / "elsewhere").rename(tmp_path / "run" / "keys")
    store.commit(keys_of(range(10)), answers_to(range(10)), seconds=1.0, num_restarts=0)
    assert len(found(RunStore(tmp_path / "run"), range(10))) == 10
