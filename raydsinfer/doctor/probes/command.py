"""One command, with a time limit."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Args:
        output: What it wrote, both streams.
        problem: Its last words if it failed; empty if it did well.
    """

    output: str
    problem: str = ""


def ran(command: Sequence[str], *, timeout_s: float, directory: Path | None = None) -> Ran:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        timeout_s: Seconds that it may take.
        directory: Where it runs.
    """
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Ran("", f"{command[0]} did not end within {timeout_s:g} s")
    except OSError as error:
        return Ran("", f"{command[0]}: {error.strerror or error}")
    output = done.stdout.strip()
    return Ran(output, "" if done.returncode == 0 else _first_error(output) or f"exit code {done.returncode}")


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
