"""What was found right on this node, so that it need not be checked again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class Memory:
    """A small file for each engine that was right. Failures are not remembered: they are looked at anew each time.

    Args:
        cache: This library's cache on the node.
        identity: Of the engine, see `engine_identity`.
    """

    def __init__(self, cache: Path, identity: str) -> None:
        self._path, self._identity = cache / "verified" / f"{identity}.json", identity

    def holds(self) -> bool:
        """Whether the engine was right here before."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and found.get("identity") == self._identity

    def keep(self, about: dict[str, Any]) -> None:
        """Remember that it was right. Where that cannot be written down, it is checked again the next time.

        Args:
            about: What else to write, for people.
        """
        part = self._path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"identity": self._identity, **about}, indent=2) + "\n")
            os.replace(part, self._path)
        except OSError as error:
            logger.warning("cannot remember that the engine is right (%s): it is checked at each start", error)
            _remove(part)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
