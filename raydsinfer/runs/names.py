"""Names in a run directory. All are made here, of the time and chance; nothing from data becomes part of one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

HEADER = "run.json"
PARTS, KEYS, MANIFESTS, STARTS, INDEX = "parts", "keys", "manifests", "starts", "index"
FOLDERS = (PARTS, KEYS, MANIFESTS, STARTS, INDEX)

_TIME = "%Y%m%dT%H%M%S%fZ"
_ID = re.compile(r"(\d{8}T\d{12}Z)-[0-9a-f]{12}")
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_KEPT = timedelta(days=1)  # nobody takes so long from the first file of a commit to the last


def new_id() -> str:
    """The name of something new: its time in UTC to the microsecond, and 48 random bits."""
    return f"{datetime.now(timezone.utc):{_TIME}}-{uuid.uuid4().hex[:12]}"


def temporary_name(name: str) -> str:
    """The name of a file that is not whole yet."""
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file was left by a writer that was killed, or is being written."""
    return _TEMPORARY.fullmatch(name) is not None


def part_file(part: str) -> str:
    """File of a part's rows."""
    return f"{PARTS}/{part}.parquet"


def keys_file(part: str) -> str:
    """File of a part's keys."""
    return f"{KEYS}/{part}"


def manifest_file(part: str) -> str:
    """File without which a part does not count."""
    return f"{MANIFESTS}/{part}.json"


def start_file(start: str) -> str:
    """File that a job writes when it starts."""
    return f"{STARTS}/{start}.json"


def end_file(start: str) -> str:
    """File that it writes when it has answered all rows."""
    return f"{STARTS}/{start}.end"


def ids_in(names: Iterable[str], suffix: str = "") -> list[str]:
    """The ids among file names, oldest first; what is named otherwise is not ours."""
    return sorted(
        name.removesuffix(suffix)
        for name in names
        if name.endswith(suffix) and _ID.fullmatch(name.removesuffix(suffix))
    )


def is_old(name: str, now: datetime | None = None, *, kept: timedelta = _KEPT) -> bool:
    """Whether a file was begun so long ago that nobody works on it any more; False of names that are not ours."""
    inner = _TEMPORARY.fullmatch(name)
    found = _ID.match(inner[1] if inner else name)
    if found is None:
        return False
    began = datetime.strptime(found[1], _TIME).replace(tzinfo=timezone.utc)
    return (now or datetime.now(timezone.utc)) - began > kept
