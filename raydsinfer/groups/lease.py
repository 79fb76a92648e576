"""The holder's end of a lease: it says "alive" from a thread until it is closed."""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from raydsinfer.errors import WorkerGroupError
from raydsinfer.groups.calls import cause_of
from raydsinfer.groups.placement import GangRequest, remove

logger = logging.getLogger(__name__)

_RENEWALS_PER_TTL = 4  # three may be lost to a slow network before the lease ends
_KEEPER_TIMEOUT_S = 60.0  # a keeper is a process that starts in seconds; a full head node takes longer


class Lease:
    """A placement group that a keeper made, renewed for as long as this object is open.

    Args:
        keeper: Handle of a `GangKeeper` actor.
        request: What to ask of the cluster.
        ttl_s: Seconds of silence after which the keeper removes the group.

    Raises:
        WorkerGroupError: The keeper is dead or does not answer.
    """

    def __init__(self, keeper: ActorHandle[Any], request: GangRequest, ttl_s: float) -> None:
        self._keeper, self._token, self._ttl_s = keeper, uuid.uuid4().hex, ttl_s
        self._gang = request.gang
        self._closed = threading.Event()
        try:
            self.group = ray.get(keeper.lease.remote(self._token, request, ttl_s, keeper), timeout=_KEEPER_TIMEOUT_S)
        except RayError as error:
            raise WorkerGroupError(
                gang=request.gang, phase="placement", causes={0: cause_of(error, "the keeper")}
            ) from error
        threading.Thread(target=self._renew, name=f"{request.gang}-lease", daemon=True).start()

    def close(self) -> None:
        """Give the group back and wait until it is gone; idempotent, also when the keeper is dead."""
        self._closed.set()
        try:
            ray.get(self._keeper.release.remote(self._token), timeout=_KEEPER_TIMEOUT_S)
        except RayError as error:
            logger.warning("%s: the keeper does not answer (%s)", self._gang, type(error).__name__)
        remove(self.group)

    def _renew(self) -> None:
        # Without the check a call after ray.shutdown() would start a new local cluster.
        while not self._closed.wait(self._ttl_s / _RENEWALS_PER_TTL) and ray.is_initialized():
            try:
                kept = ray.get(self._keeper.renew.remote(self._token), timeout=self._ttl_s)
            except RayActorError:
                # The group stays: close() removes it, or the end of the job does.
                logger.warning("%s: its keeper died; the gang works on", self._gang)
                return
            except Exception as error:  # too slow, or Ray is shutting down: the next round knows more
                logger.debug("%s: lease not renewed: %r", self._gang, error)
                continue
            if not kept and not self._closed.is_set():
                # Either the job is over, which is no news, or the next call says what happened.
                logger.info("%s: lease ended by the job's end or after %g s of silence", self._gang, self._ttl_s)
                return
