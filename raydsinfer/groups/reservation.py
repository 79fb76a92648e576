"""Room on the cluster for one gang: it outlives the gang's processes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup

from raydsinfer.config import GangConfig
from raydsinfer.groups.lease import Lease
from raydsinfer.groups.nodes import alive_nodes
from raydsinfer.groups.placement import (
    GangRequest,
    nodes_of,
    placement_group_state,
    remove,
    reserve,
    wait_until_placed,
)


class Reservation:
    """The placement group of a gang, made when it is first wanted.

    Args:
        request: What to ask of the cluster.
        gang_config: Deadlines.
        keeper: A `GangKeeper` actor that owns the placement group; None: this process does.
    """

    def __init__(self, request: GangRequest, gang_config: GangConfig, keeper: ActorHandle[Any] | None = None) -> None:
        self.request = request
        self._config, self._keeper = gang_config, keeper
        self._group: PlacementGroup | None = None
        self._lease: Lease | None = None

    def acquire(self, *, on_progress: Callable[[str], None], is_over: Callable[[], bool]) -> PlacementGroup:
        """The placement group, with all bundles in place.

        Args:
            on_progress: Gets a line of words when there is something to wait for.
            is_over: Asked now and then: whether nobody waits any more.

        Raises:
            ClusterCapacityError: Not all bundles were placed in time.
            WorkerGroupError: The keeper is dead or gives no leases, the placement group was removed meanwhile, or
                the waiting is over.
        """
        if self._group is None and self._keeper is not None:
            self._lease = Lease(self._keeper, self.request, self._config.lease_ttl_s)
            self._group = self._lease.group
        elif self._group is None:
            self._group = reserve(self.request)
        timeout_s = self._config.placement_timeout_s
        wait_until_placed(self._group, self.request, timeout_s=timeout_s, on_progress=on_progress, is_over=is_over)
        return self._group

    def is_whole(self, lost_nodes: Collection[str] = ()) -> bool:
        """Whether all bundles are in place, on nodes that are alive.

        Args:
            lost_nodes: Ids of nodes that do not answer; Ray may not have noticed yet.
        """
        if self._group is None or placement_group_state(self._group) != "CREATED":
            return False
        # A node's death reaches the list of nodes before it reaches the placement group.
        alive = {node.node_id for node in alive_nodes()}
        return nodes_of(self._group) <= alive - set(lost_nodes)

    def release(self) -> None:
        """Give the room back and wait until Ray has it; idempotent. `acquire` would ask for it anew."""
        lease, group = self._lease, self._group
        self._lease = self._group = None
        if lease is not None:
            lease.close()
        elif group is not None:
            remove(group)
