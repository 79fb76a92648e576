import shutil
import sys
from pathlib import Path

import pytest

from raydsinfer.doctor.probes.toolchain import find_ninja, find_toolchain

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


@needs_gcc
def test_the_c_compiler_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = find_toolchain()
    assert (found.c.path, found.c.version.startswith("gcc")) == (shutil.which("gcc"), True)


def compiler(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


def test_the_compilers_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One without headers, one that is not there."""
    says = 'echo "work.c:1:10: fatal error: Python.h: No such file or directory"'
    monkeypatch.setenv(
        "CC", compiler(tmp_path / "mycc", '[ "$1" = --version ] && echo mycc 1.0 && exit', says, "exit 1")
    )
    monkeypatch.setenv("CXX", "/no/such/compiler -O2")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_toolchain()
    assert (found.c.version, "Python.h: No such file" in found.c.problem) == ("mycc 1.0", True)
    assert (found.cxx.path, found.cxx.problem) == ("", "/no/such/compiler -O2 is not there")


def test_ninja_that_is_not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    assert find_ninja().beside == ""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "ninja").touch()
    assert find_ninja().beside == str(tmp_path / "env" / "ninja")
    compiler(tmp_path / "ninja", "echo 1.11.1")
    assert (find_ninja().version, find_ninja().problem) == ("1.11.1", "")
