"""Green, yellow or red, and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["green", "yellow", "red"]
_ORDER: tuple[Level, ...] = ("green", "yellow", "red")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is thought of one thing.

    Args:
        subject: The thing, in a word or two.
        level: green: fine; yellow: works, but; red: something of this library does not work.
        found: What is there, with figures.
        cure: What to do; empty if there is nothing to.
    """

    subject: str
    level: Level
    found: str
    cure: str = ""


def worst(verdicts: Sequence[Verdict]) -> Level:
    """The level of the machine: that of its worst verdict."""
    return max((verdict.level for verdict in verdicts), key=_ORDER.index, default="green")


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For machines."""
    return {"level": worst(verdicts), "verdicts": [asdict(verdict) for verdict in verdicts]}
