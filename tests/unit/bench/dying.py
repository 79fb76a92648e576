"""A rank that does not answer; in a module of its own, because new processes import it."""

from __future__ import annotations

import os

from raydsinfer.engines.base import RankContext


def die(context: RankContext) -> None:
    """End without an answer."""
    os._exit(7 + context.world_rank)
