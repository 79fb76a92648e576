"""Questions to a keeper that may be dead: a job goes on without what it would have said."""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

logger = logging.getLogger(__name__)

_KEEPER_TIMEOUT_S = 60.0


class KeeperLine:
    """Calls a keeper's methods; a keeper that does not answer is a warning, once. Thread-safe.

    Args:
        keeper: A `GangKeeper` actor; None: there is none to ask.
        asker: Who asks, for the warning.
    """

    def __init__(self, keeper: ActorHandle[Any] | None, asker: str) -> None:
        self._keeper, self._asker = keeper, asker
        self._lock, self._has_warned = threading.Lock(), False

    def ask(self, method: str, *args: Any) -> Any:
        """What a method gives; None if nobody answers."""
        if self._keeper is None:
            return None
        try:
            return ray.get(getattr(self._keeper, method).remote(*args), timeout=_KEEPER_TIMEOUT_S)
        except RayError as error:
            with self._lock:
                first, self._has_warned = not self._has_warned, True
            if first:
                logger.warning(
                    "%s: the keeper does not answer (%s): limits of the whole job are not checked any more",
                    self._asker,
                    type(error).__name__,
                )
            return None

    def tell(self, method: str, *args: Any) -> None:
        """Call a method and wait for nothing."""
        if self._keeper is not None:
            getattr(self._keeper, method).remote(*args)
