import os
from pathlib import Path

import pytest

from raydsinfer.doctor.probes.node import find_node, look_at, mount_problem


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf" / "home"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "ops"))
    found = find_node()
    assert found.memory_bytes > 2**28
    assert 0 < found.available_bytes <= found.memory_bytes
    assert found.shm_free_bytes <= found.shm_bytes
    assert found.limits.open_files is None or found.limits.open_files > 0
    by_role = {directory.role: directory for directory in found.directories}
    assert by_role["models"].path == str(tmp_path / "hf" / "home")
    assert by_role["compiled ops"].path == str(tmp_path / "ops")
    assert 0 < by_role["models"].free_bytes <= by_role["models"].total_bytes
    assert list(tmp_path.iterdir()) == []  # nothing is made


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no directory" in look_at("models", tmp_path / "file" / "x", "HF_HOME").problem


def test_how_a_file_system_is_mounted() -> None:
    assert "read-only" in mount_problem(os.ST_RDONLY, runs=False)
    assert "noexec" in mount_problem(os.ST_NOEXEC, runs=True)
    assert mount_problem(os.ST_NOEXEC | os.ST_NOSUID, runs=False) == ""
