"""What a gang asks of the cluster, whether the cluster could ever give it, and waiting for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from raydsinfer.errors import ClusterCapacityError, InvalidSettingError, UnsupportedError, WorkerGroupError
from raydsinfer.groups.nodes import alive_nodes

if TYPE_CHECKING:
    from ray.train import ScalingConfig

logger = logging.getLogger(__name__)

_POLL_S = 0.1  # one small request to the head node; an idle cluster places a gang faster than this
_REPORT_S = 15.0  # often enough for someone who watches, rare enough for a log
_REMOVAL_TIMEOUT_S = 10.0  # removal takes milliseconds; a head node that is gone must not hold us


@dataclass(frozen=True, kw_only=True)
class GangRequest:
    """Resources of a gang: one equal bundle a rank.

    Args:
        gang: Name of the gang.
        num_ranks: Number of bundles.
        bundle: Resource name → amount, for each rank.
        strategy: ``PACK``, ``SPREAD``, ``STRICT_PACK`` or ``STRICT_SPREAD``.
        label_selectors: Node labels that each bundle wants; empty for none.
    """

    gang: str
    num_ranks: int
    bundle: Mapping[str, float]
    strategy: str = "PACK"
    label_selectors: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """One living node.

    Args:
        address: Its IP address.
        total: Resource name → amount when idle.
        free: Resource name → amount now.
        node_id: Ray's id of it: two nodes may share an address.
    """

    address: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    node_id: str = ""

    def __str__(self) -> str:
        names = [name for name in sorted(self.total) if not name.startswith(("node:", "object_store_memory"))]
        listed = ", ".join(
            f"{_amount(name, self.free.get(name, 0))} of {_amount(name, self.total[name])} {name}" for name in names
        )
        return f"{self.address}: {listed or 'nothing'} free"


def gang_request(gang: str, scaling_config: ScalingConfig) -> GangRequest:
    """What a `ScalingConfig` means for a gang.

    Args:
        gang: Name of the gang.
        scaling_config: `num_workers` is the tensor parallel size.

    Raises:
        InvalidSettingError: A number of workers or resources that no gang can have.
        UnsupportedError: TPUs, or an elastic number of workers.
    """
    num_ranks, num_gpus = scaling_config.num_workers, scaling_config.num_gpus_per_worker
    if getattr(scaling_config, "use_tpu", False):
        raise UnsupportedError(what="use_tpu=True", why="DeepSpeed runs on GPUs and CPUs", instead="Set use_gpu=True.")
    if not isinstance(num_ranks, int):
        raise UnsupportedError(
            what=f"num_workers={num_ranks!r}",
            why="a model is cut for a fixed number of ranks",
            instead="Give one number; BatchPredictor.predict(max_scoring_workers=...) varies the number of gangs.",
        )
    if num_ranks < 1:
        raise InvalidSettingError(name="num_workers", value=num_ranks, expected="1 or more")
    if num_gpus != 1 and scaling_config.use_gpu and (num_ranks > 1 or num_gpus > 1):
        raise InvalidSettingError(
            name="resources_per_worker['GPU']",
            value=num_gpus,
            expected="1 (a rank is one process with one GPU; less only for a gang of one rank)",
            hint="For more GPUs raise num_workers.",
        )
    amounts = {
        "CPU": scaling_config.num_cpus_per_worker,
        "GPU": num_gpus,
        **scaling_config.additional_resources_per_worker,
    }
    bundle = {name: float(amount) for name, amount in amounts.items() if amount}
    if not bundle:
        raise InvalidSettingError(
            name="resources_per_worker",
            value=scaling_config.resources_per_worker,
            expected="at least one resource above 0",
            hint="Ray cannot place a bundle of nothing; CPU=0.01 is the smallest way to say so.",
        )
    return GangRequest(
        gang=gang,
        num_ranks=num_ranks,
        bundle=bundle,
        strategy=str(scaling_config.placement_strategy),
        label_selectors=_label_selectors(getattr(scaling_config, "label_selector", None), num_ranks),
    )


def why_impossible(request: GangRequest, nodes: Sequence[NodeResources]) -> str:
    """Why these nodes could not hold the gang even if they were idle; empty if they could.

    Label selectors are not looked at: only Ray knows how it matches them.
    """
    fits = [_num_bundles(request.bundle, node) for node in nodes]
    have = {"STRICT_PACK": max(fits, default=0), "STRICT_SPREAD": sum(fit > 0 for fit in fits)}.get(
        request.strategy, sum(fits)
    )
    if have >= request.num_ranks:
        return ""
    bundle = dict(request.bundle)
    if not any(fits):
        return f"no node can hold a bundle of {bundle}"
    where = {"STRICT_PACK": "on one node", "STRICT_SPREAD": "on different nodes"}.get(request.strategy, "in all")
    return f"{request.num_ranks} bundles of {bundle} are wanted, but idle nodes would hold {have} {where}"


def capacity_error(request: GangRequest, nodes: Sequence[NodeResources], waited_s: float) -> ClusterCapacityError:
    """The error of a gang that was not placed, with the reason that the nodes give."""
    impossible = why_impossible(request, nodes)
    nowhere = not any(_num_bundles(request.bundle, node) for node in nodes)
    if impossible:
        reason = f"{impossible[0].upper()}{impossible[1:]}. Add nodes, or ask for fewer ranks or resources."
    else:
        reason = (
            "Idle, these nodes would hold the gang: wait for others to finish, run fewer gangs, "
            "or set GangConfig(placement_timeout_s=...) higher."
        )
    labels = f" Node labels must match {dict(request.label_selectors[0])} too." if request.label_selectors else ""
    return ClusterCapacityError(
        gang=request.gang,
        bundles=(dict(request.bundle),) * request.num_ranks,
        unplaceable=tuple(range(request.num_ranks)) if nowhere else (),
        nodes=tuple(str(node) for node in nodes),
        waited_s=waited_s,
        hint=reason + labels,
    )


def read_nodes() -> list[NodeResources]:
    """The cluster's living nodes, with what they have and what is free."""
    # The free amounts of single nodes have no public call that works without Ray's dashboard.
    per_node: dict[str, dict[str, float]] = getattr(ray._private.state, "available_resources_per_node", dict)()
    return [
        NodeResources(address=node.ip, total=node.resources, free=per_node.get(node.node_id, {}), node_id=node.node_id)
        for node in alive_nodes()
    ]


def reserve(request: GangRequest) -> PlacementGroup:
    """Ask Ray for the bundles; returns at once."""
    labels: dict[str, Any] = {}
    if request.label_selectors:
        labels["bundle_label_selector"] = [dict(selector) for selector in request.label_selectors]
    bundles = [dict(request.bundle) for _ in range(request.num_ranks)]
    group: PlacementGroup = placement_group(bundles, strategy=request.strategy, **labels)
    return group


def wait_until_placed(
    group: PlacementGroup,
    request: GangRequest,
    *,
    timeout_s: float,
    on_progress: Callable[[str], None],
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for all bundles.

    A gang that the present nodes can never hold is reported at once, but waited for all the same:
    an autoscaler that is about to add nodes does not tell anyone.

    Args:
        group: What `reserve` returned.
        request: What was asked for.
        timeout_s: Seconds to wait.
        on_progress: Gets a line of words when there is something to wait for.
        is_over: Asked now and then: whether nobody waits any more.

    Raises:
        ClusterCapacityError: Not all bundles were placed in time.
        WorkerGroupError: The placement group was removed meanwhile, or the waiting is over.
    """
    started = time.monotonic()
    next_report_s = 1.0
    while (state := placement_group_state(group)) != "CREATED":
        waited_s = time.monotonic() - started
        if state == "REMOVED":
            cause = RuntimeError("its placement group was removed while it waited: its job or its lease has ended")
            raise WorkerGroupError(gang=request.gang, phase="placement", causes={0: cause})
        if is_over():
            cause = RuntimeError("the gang was shut down while it waited")
            raise WorkerGroupError(gang=request.gang, phase="placement", causes={0: cause})
        if waited_s >= timeout_s:
            raise capacity_error(request, read_nodes(), waited_s)
        if waited_s >= next_report_s:
            next_report_s = waited_s + _REPORT_S
            reason = why_impossible(request, read_nodes()) or "the cluster is busy"
            message = f"waiting for placement ({waited_s:.0f} of {timeout_s:.0f} s): {reason}"
            logger.warning("%s: %s", request.gang, message)
            on_progress(message)
        time.sleep(min(_POLL_S, max(0.0, timeout_s - waited_s)))


def placement_group_state(group: PlacementGroup) -> str:
    """Ray's word for it: ``PENDING``, ``CREATED``, ``RESCHEDULING`` or ``REMOVED``."""
    return str(placement_group_table(group).get("state", "REMOVED"))


def nodes_of(group: PlacementGroup) -> set[str]:
    """Ids of the nodes that the bundles are on."""
    return set(placement_group_table(group).get("bundles_to_node_id", {}).values())


def remove(group: PlacementGroup) -> None:
    """Give the bundles back and wait until Ray has done so; idempotent."""
    remove_placement_group(group)
    deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
    while placement_group_state(group) != "REMOVED" and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _label_selectors(selector: Any, num_ranks: int) -> tuple[Mapping[str, str], ...]:
    if not selector:
        return ()
    return (dict(selector),) * num_ranks if isinstance(selector, Mapping) else tuple(map(dict, selector))


def _num_bundles(bundle: Mapping[str, float], node: NodeResources) -> int:
    # Ray counts in ten-thousandths: a little slack keeps 0.3 / 0.1 at three.
    return int(min(node.total.get(name, 0) / amount + 1e-6 for name, amount in bundle.items()))


def _amount(resource: str, amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB" if resource == "memory" else f"{amount:g}"
