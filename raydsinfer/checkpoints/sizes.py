"""Numbers of bytes, as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from raydsinfer.errors import InvalidSettingError

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with bytes that are done, or there, and bytes in all."""

_UNITS = {
    unit + "B": base**power
    for base, infix in ((1000, ""), (1024, "I"))
    for power, unit in enumerate(("", *(letter + infix for letter in "KMGT")))
}


def parse_size(name: str, value: str | int) -> int:
    """Bytes of ``5GB``, ``512MiB`` or a plain number.

    Args:
        name: The setting's name, for the message.
        value: What was given.

    Raises:
        InvalidSettingError: It is no size, or not above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value).strip())
    factor = _UNITS.get((found[2].upper() or "B") if found else "")
    num_bytes = int(float(found[1]) * factor) if found and factor else 0
    if num_bytes < 1:
        raise InvalidSettingError(name=name, value=value, expected="a size like 5GB, 512MiB or a number of bytes")
    return num_bytes


def size_in_words(num_bytes: float) -> str:
    """Bytes for people: ``4.2 GB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def memory_in_words(num_bytes: float) -> str:
    """Bytes as memory is told of: ``15.9 GiB``."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
