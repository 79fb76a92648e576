"""What became of a job's rows: lost, duplicated or wrong; pure but for what is left on the machine."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.clusters import left_of_gangs
from tests.faults.job import Job

_SHARED_MEMORY = Path("/dev/shm")

LEFT_TIMEOUT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is wrong with a job's result; all empty if nothing is.

    Args:
        lost: Rows that never came.
        duplicated: Rows that came more than once.
        wrong: Row → what came instead of its answer.
        left: What lives on after the job.
    """

    lost: tuple[int, ...] = ()
    duplicated: tuple[int, ...] = ()
    wrong: Mapping[int, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, item.name) for item in fields(self))

    def __str__(self) -> str:
        parts = []
        for item in fields(self):
            found = getattr(self, item.name)
            if found:
                few = dict(list(found.items())[:3]) if isinstance(found, Mapping) else list(found)[:5]
                parts.append(f"{len(found)} {item.name}: {few}")
        return "; ".join(parts) or "good"


def judge(
    job: Job,
    rows: Iterable[Mapping[str, Any]],
    expected: Callable[[int], tuple[str, str]],
    left: Iterable[str] = (),
) -> Verdict:
    """Compare what came with what should have.

    Args:
        job: The job.
        rows: What came: ``id``, ``output``, ``error``.
        expected: Row number → its output, and the kind of its error (empty if it has none).
        left: What lives on.
    """
    rows = list(rows)
    counts = Counter(row["id"] for row in rows)
    wrong = {}
    for row in rows:
        output, kind = expected(row["id"])
        if (row["output"], row["error"].split(":")[0]) != (output, kind):
            wrong[row["id"]] = f"{row['output']!r} {row['error']!r}"[:400]
    return Verdict(
        lost=tuple(number for number in range(job.num_rows) if number not in counts),
        duplicated=tuple(number for number, count in counts.items() if count > 1),
        wrong=wrong,
        left=tuple(left),
    )


def echoed(job: Job, errors: Mapping[int, str] | None = None) -> Callable[[int], tuple[str, str]]:
    """What the echo engine should answer.

    Args:
        job: The job.
        errors: Rows that should fail, beside those without a prompt, and the kind of their error.
    """

    def expected(number: int) -> tuple[str, str]:
        prompt = job.prompt(number)
        kind = (errors or {}).get(number, "" if prompt else "prompt")
        return ("" if kind else prompt, kind)

    return expected


class Leftovers:
    """What lives on after jobs on a `Machine`, beside what was there before them."""

    def __init__(self) -> None:
        self._before = set(_files())

    def after(self, timeout_s: float = LEFT_TIMEOUT_S) -> list[str]:
        """What is left once some seconds have passed; empty as soon as nothing is."""
        deadline = time.monotonic() + timeout_s
        left = self._now()
        while left and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.2)
            # What others on this machine make in shared memory comes and goes.
            now = set(self._now())
            left = [what for what in left if what in now]
        return left

    def _now(self) -> list[str]:
        living = [f"{kind}: {what}" for kind, found in left_of_gangs().items() for what in found]
        return living + [f"file: {name}" for name in set(_files()) - self._before]


def _files() -> list[str]:
    """Shared memory and temporary files that could be ours: Ray's own store and Python's semaphores are not."""
    shared = [str(path) for path in _SHARED_MEMORY.iterdir() if not path.name.startswith(("plasma", "sem.mp-"))]
    return shared + [str(path) for path in Path(os.environ["TMPDIR"]).glob("raydsinfer-*")]
