"""Names of outputs that are being written, which tell whether whoever writes them still lives."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from contextlib import suppress
from typing import Any

import psutil
from fsspec.implementations.local import LocalFileSystem


def unfinished_name(name: str) -> str:
    """A name beside `name`, of this process's own."""
    return f".{name}.partial-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def finished_name(name: str) -> str:
    """A name beside `name` for an output that is whole but cannot take its place."""
    return f".{name}.finished-{uuid.uuid4().hex[:8]}"


def remove_abandoned(filesystem: Any, parent: str, name: str) -> None:
    """Remove what killed processes of this machine left of an output. Only local disks are looked at.

    Args:
        filesystem: fsspec's.
        parent: Directory of the output.
        name: Name of the output.
    """
    if not isinstance(filesystem, LocalFileSystem):
        return
    pattern = re.compile(re.escape(f".{name}.partial-{_machine()}-") + r"(\d+)-[0-9a-f]{8}")
    with suppress(OSError):  # the output itself will say what is wrong with the directory
        for entry in os.listdir(parent or "/"):
            found = pattern.fullmatch(entry)
            if found and not psutil.pid_exists(int(found[1])):
                with suppress(OSError):
                    filesystem.rm(f"{parent}/{entry}", recursive=True)


def _machine() -> str:
    """Equal for processes that see each other's process ids."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            boot = stream.read()
    except OSError:  # no Linux
        namespace, boot = "", ""
    return hashlib.blake2b(f"{platform.node()}\0{boot}\0{namespace}".encode(), digest_size=4).hexdigest()
