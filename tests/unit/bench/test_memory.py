from __future__ import annotations

import mmap
import time
from pathlib import Path

from raydsinfer.bench.memory import PeakMemory

MIB = 2**20


def test_sees_a_peak_that_is_gone_again() -> None:
    with PeakMemory() as memory:
        held = bytearray(b"x" * (64 * MIB))
        time.sleep(0.2)  # several looks
        del held
    assert memory.peak_bytes - memory.start_bytes >= 60 * MIB


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (64 * MIB))
    with PeakMemory() as memory, (tmp_path / "f").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert sum(mapped[at] for at in range(0, len(mapped), 4096)) == 64 * MIB // 4096 * ord("x")
        mapped.close()
    assert memory.peak_bytes - memory.start_bytes < 16 * MIB
