"""What a driver is told to do, and what its rows are and should become: pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DEADLINES = {
    "placement_timeout_s": 120.0,
    "start_timeout_s": 120.0,
    "call_timeout_s": 120.0,
    "first_step_timeout_s": 6.0,
    "step_timeout_s": 6.0,
    "heartbeat_timeout_s": 6.0,
    "lease_ttl_s": 10.0,
}
EVERY_NTH_IS_BAD = 97  # an empty prompt: an error row, in every run the same


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of `driver.py`.

    Args:
        path: File that this is written to; its siblings are what the driver writes.
        address: The Ray cluster.
        num_rows: Rows to answer.
        run_dir: Where answers are kept; empty: nowhere.
        model: What the gangs load.
        input_path: Parquet file of the rows, if `rows` are not to be made.
        num_gangs: Gangs.
        num_ranks: Ranks of each.
        use_gpu: Whether a rank is a fake GPU, which only the echo engine believes in, or half a CPU.
        batch_size: Rows of a batch.
        engine: Of `EngineConfig`.
        deadlines: Of `GangConfig`.
        recovery: Of `RecoveryConfig`.
        generation: Of `predict`.
        prompts: Row number → prompt, for rows that are not like the others.
        only_counts: Whether the driver writes a line a batch, of what it adds up to, instead of the rows.
    """

    path: str
    address: str
    num_rows: int
    run_dir: str
    model: str = "none"
    input_path: str = ""
    num_gangs: int = 2
    num_ranks: int = 2
    use_gpu: bool = True
    batch_size: int = 20
    engine: dict[str, Any] = field(default_factory=dict)
    deadlines: dict[str, Any] = field(default_factory=lambda: dict(DEADLINES))
    recovery: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    only_counts: bool = False

    @classmethod
    def read(cls, path: Path) -> Job:
        """From the file that `write` wrote."""
        return cls(**json.loads(path.read_text()))

    def write(self) -> None:
        """Write the file that tells a driver."""
        Path(self.path).write_text(json.dumps(asdict(self)))

    @property
    def output_path(self) -> Path:
        """Rows of a driver that ended well; with ``.part`` for a suffix those of one that has not."""
        return Path(self.path).with_suffix(".rows")

    @property
    def error_path(self) -> Path:
        """What a driver raised."""
        return Path(self.path).with_suffix(".error")

    def rows(self) -> list[dict[str, Any]]:
        """Number and prompt of each row."""
        return [{"id": number, "prompt": self.prompt(number)} for number in range(self.num_rows)]

    def prompt(self, number: int) -> str:
        """The prompt of a row: of its own, but for those that cannot be answered."""
        if str(number) in self.prompts:
            return self.prompts[str(number)]
        return "" if number % EVERY_NTH_IS_BAD == EVERY_NTH_IS_BAD - 1 else f"row {number} " + "x" * (number % 13)

    def written(self) -> Iterator[dict[str, Any]]:
        """Rows that the last driver wrote, whole ones."""
        path = self.output_path if self.output_path.exists() else self.output_path.with_suffix(".part")
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):
                yield json.loads(line)
