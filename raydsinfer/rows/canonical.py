"""One sequence of bytes for each value that a cell can hold: equal for what means the same, and for nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from raydsinfer.rows.request import is_missing

_MOST_LEVELS = 100  # of lists in lists; beyond that a value is no conversation and no settings


def canonical_bytes(value: object) -> bytes:
    """A value as bytes that are the same in every process.

    None, NaN, NaT and pandas' NA are one missing value, and as a field of a mapping are left out, because columns of
    structs give every row the fields that any row has. Whole floats are integers, because columns with gaps turn 50
    into 50.0. The order of a mapping's fields does not count. numpy's values are Python's. Nothing fails: what
    cannot be written down (it contains itself, or its `repr` raises) gets bytes that nothing else has, ever.
    """
    try:
        return _encoded(value, 0)
    except Exception:  # whatever a strange object raises when it is looked at
        return _tagged(b"?", secrets.token_bytes(16))


def _encoded(value: Any, level: int) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, str):
        # Half a surrogate pair is a Python string, too.
        return _tagged(b"s", str.encode(value, "utf-8", "surrogatepass"))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, float) and not value.is_integer():
        return b"n" if value != value else _tagged(b"d", float.hex(value).encode())
    if isinstance(value, int | float):
        return _tagged(b"i", hex(int(value)).encode())  # not str, which has a limit
    if isinstance(value, bytes | bytearray | memoryview):
        return _tagged(b"y", bytes(value))
    if level > _MOST_LEVELS:
        raise RecursionError
    if isinstance(value, Mapping):
        return _mapping(value, level + 1)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return _tagged(b"l", b"".join(_encoded(item, level + 1) for item in value))
    if is_missing(value):
        return b"n"
    return _tagged(b"o", f"{type(value).__module__}.{type(value).__qualname__}\0{value!r}".encode("utf-8", "replace"))


def _mapping(value: Mapping[Any, Any], level: int) -> bytes:
    fields = ((_encoded(name, level), _encoded(field, level)) for name, field in value.items())
    return _tagged(b"m", b"".join(name + field for name, field in sorted(fields) if field != b"n"))


def _tagged(kind: bytes, content: bytes) -> bytes:
    # With its length, so that no two sequences of values run together to the same bytes.
    return kind + len(content).to_bytes(8, "little") + content
