"""How many predictors fit beside each other, and beside Ray Data's own tasks: pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydsinfer.errors import InvalidSettingError
from raydsinfer.groups.placement import GangRequest, NodeResources

logger = logging.getLogger(__name__)

_CPUS_FOR_RAY_DATA = 1.0  # a task of Ray Data that reads, repartitions or writes asks for one CPU


@dataclass(frozen=True, kw_only=True)
class ScoringPool:
    """Ray Data's actors, one predictor each, as the caller wants them.

    Args:
        min_size: Fewest of them.
        max_size: Most of them; None means as many as find room.
        num_cpus: CPUs that each asks for; None means the default of its kind.
        num_gpus: GPUs that each asks for.
        remote_args: Further arguments of `ray.remote`.

    Raises:
        InvalidSettingError: The sizes are not whole numbers from 1 up, or the wrong way round; or an amount is none.
    """

    min_size: int = 1
    max_size: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    remote_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_count("min_scoring_workers", self.min_size)
        _check_amount("num_cpus_per_worker", self.num_cpus)
        _check_amount("num_gpus_per_worker", self.num_gpus)
        if not isinstance(self.remote_args, Mapping):
            raise InvalidSettingError(name="ray_remote_args", value=self.remote_args, expected="arguments by name")
        if self.max_size is None:
            return
        _check_count("max_scoring_workers", self.max_size)
        if self.max_size < self.min_size:
            expected = f"at least min_scoring_workers={self.min_size}"
            raise InvalidSettingError(name="max_scoring_workers", value=self.max_size, expected=expected)

    def actor_options(self, *, default_num_cpus: float) -> dict[str, Any]:
        """Arguments of `Dataset.map_batches` for the actors."""
        options = {"num_cpus": default_num_cpus, **self.remote_args}
        chosen = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        return options | {name: amount for name, amount in chosen.items() if amount is not None}


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidSettingError(name=name, value=value, expected="a whole number, 1 or more")


def _check_amount(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise InvalidSettingError(name=name, value=value, expected="a number from 0 up")


def num_gangs_that_fit(request: GangRequest, nodes: Sequence[NodeResources]) -> int:
    """How many gangs the nodes could hold side by side if they were idle."""
    slots = [_num_bundles(request, node) for node in nodes]
    if request.strategy == "STRICT_PACK":
        return sum(slot // request.num_ranks for slot in slots)
    num_gangs = sum(slots) // request.num_ranks
    if request.strategy == "STRICT_SPREAD":
        # Each gang takes at most one bundle of a node.
        while num_gangs and sum(min(slot, num_gangs) for slot in slots) < num_gangs * request.num_ranks:
            num_gangs -= 1
    return num_gangs


def pool_size(
    request: GangRequest, nodes: Sequence[NodeResources], min_workers: int, max_workers: int | None
) -> tuple[int, int]:
    """Fewest and most gangs that Ray Data may start.

    Ray Data's actors ask for no resources themselves, their gangs do, so it would start any number of them.

    Args:
        request: What one gang asks for.
        nodes: The cluster's nodes.
        min_workers: Fewest that the caller wants.
        max_workers: Most that the caller wants; None means as many as the present nodes hold.

    Raises:
        InvalidSettingError: The gangs would leave no CPU for Ray Data, which then could not read a row.
    """
    fit = num_gangs_that_fit(request, nodes)
    num_cpus = sum(node.total.get("CPU", 0) for node in nodes)
    cpus_per_gang = request.bundle.get("CPU", 0) * request.num_ranks
    room = fit
    while room and num_cpus - room * cpus_per_gang < _CPUS_FOR_RAY_DATA:
        room -= 1
    if fit >= min_workers > room:
        cpus_per_rank = max(0.0, num_cpus - _CPUS_FOR_RAY_DATA) / (min_workers * request.num_ranks)
        raise InvalidSettingError(
            name="ScalingConfig(resources_per_worker['CPU'])",
            value=request.bundle["CPU"],
            expected=f"at most {int(cpus_per_rank * 100) / 100:g}",
            hint=(
                f"{min_workers} x {request.num_ranks} ranks would take {min_workers * cpus_per_gang:g} of the "
                f"cluster's {num_cpus:g} CPUs, and Ray Data needs one to read and write rows. The number is a "
                "reservation, not a limit: a smaller one does not slow the ranks down."
            ),
        )
    most = max(min_workers, room if max_workers is None else max_workers)
    if min_workers <= room < min(most, fit):
        logger.warning(
            "max_scoring_workers=%d would leave no CPU for Ray Data on %g CPUs: using %d", most, num_cpus, room
        )
        most = room
    return min_workers, most


def _num_bundles(request: GangRequest, node: NodeResources) -> int:
    # Ray counts in ten-thousandths: a little slack keeps 0.3 / 0.1 at three.
    return int(min(node.total.get(name, 0) / amount + 1e-6 for name, amount in request.bundle.items()))
