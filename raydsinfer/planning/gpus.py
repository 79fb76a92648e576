"""GPUs: what nodes have, and what is publicly known of those that are not here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from raydsinfer.errors import InvalidSettingError

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU; None is what nobody told.

    Args:
        name: Of the product; empty if nobody told.
        capability: Compute capability.
        total_bytes: Of its memory.
        free_bytes: Of its memory, now.
        assumed: Whether the user said so, and no driver.
    """

    name: str = ""
    capability: tuple[int, int] | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    assumed: bool = False

    def __str__(self) -> str:
        if not self.name and self.total_bytes is None:
            return "an unknown GPU"
        words = [self.name or "a GPU"]
        if self.total_bytes is not None:
            words.append(f"{self.total_bytes / _GIB:.0f} GiB")
        if self.capability is not None:
            words.append(f"compute capability {dotted(self.capability)}")
        if self.assumed:
            words.append("assumed")
        return ", ".join(words)


def dotted(version: Sequence[int]) -> str:
    """``(8, 0)`` as ``8.0``."""
    return ".".join(map(str, version))


# NVIDIA's data sheets and its table of compute capabilities (developer.nvidia.com/cuda-gpus): capability, and GB as
# the product is sold. The driver tells a little less: it keeps some for itself and for error correction.
KNOWN_GPUS: dict[str, tuple[tuple[int, int], int]] = {
    "P100": ((6, 0), 16),
    "V100": ((7, 0), 16),
    "V100-32G": ((7, 0), 32),
    "T4": ((7, 5), 16),
    "A100": ((8, 0), 40),
    "A100-40G": ((8, 0), 40),
    "A100-80G": ((8, 0), 80),
    "A10": ((8, 6), 24),
    "A10G": ((8, 6), 24),
    "A40": ((8, 6), 48),
    "L4": ((8, 9), 24),
    "L40S": ((8, 9), 48),
    "H100": ((9, 0), 80),
    "H200": ((9, 0), 141),
    "B200": ((10, 0), 180),
}
_USABLE = 0.93
"""Share of that memory, in GiB, which is reckoned with: an allowance, not a measurement. What is sold as a GB may be a
GiB or 10**9 bytes, and the driver keeps some; a driver that can be asked knows better."""


def assumed_gpu(name: str | None, memory_gib: float | None) -> Gpu | None:
    """The GPU that a user wants to plan for; None if nothing is said.

    Args:
        name: One of `KNOWN_GPUS`, or any name beside a `memory_gib`.
        memory_gib: Its memory, where that is known better.

    Raises:
        InvalidSettingError: A name that is not known; or no memory, or endless memory.
    """
    if memory_gib is not None and not (math.isfinite(memory_gib) and memory_gib > 0):
        raise InvalidSettingError(name="--gpu-memory-gib", value=memory_gib, expected="a number that is more than 0")
    total = None if memory_gib is None else int(memory_gib * _GIB)
    if name is None:
        return None if total is None else Gpu(total_bytes=total, assumed=True)
    found = KNOWN_GPUS.get(_key(name))
    if found is None:
        raise InvalidSettingError(
            name="--gpu",
            value=name,
            expected=f"one of {', '.join(KNOWN_GPUS)}",
            hint="For another say its memory alone: --gpu-memory-gib.",
        )
    capability, sold_gb = found
    return Gpu(
        name=_key(name),
        capability=capability,
        total_bytes=int(_USABLE * sold_gb * _GIB) if total is None else total,
        assumed=True,
    )


def known_capability(name: str) -> tuple[int, int] | None:
    """Compute capability of a product as a driver names it, like ``NVIDIA H100 80GB HBM3``; None if not known."""
    found = KNOWN_GPUS.get(_key(name).split("-")[0])
    return None if found is None else found[0]


def _key(name: str) -> str:
    """``NVIDIA_TESLA_T4`` and ``tesla t4`` are the T4, ``A100 80GB`` is the A100-80G."""
    short = re.sub(r"[ _]", "-", name.strip().upper()).removeprefix("NVIDIA-").removeprefix("TESLA-")
    return re.sub(r"-(\d+)GB$", r"-\1G", short)


def weakest(gpus: Sequence[Gpu]) -> tuple[int, int] | None:
    """The lowest compute capability; None if it is not known of every one."""
    known = [gpu.capability for gpu in gpus if gpu.capability is not None]
    return min(known) if gpus and len(known) == len(gpus) else None


def smallest_bytes(gpus: Sequence[Gpu]) -> int | None:
    """The least memory; None if it is not known of every one."""
    known = [gpu.total_bytes for gpu in gpus if gpu.total_bytes is not None]
    return min(known) if gpus and len(known) == len(gpus) else None
