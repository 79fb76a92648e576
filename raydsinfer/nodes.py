"""A function on every node of the cluster, exactly once, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import NodeDiedError as RayNodeDiedError
from ray.exceptions import RayError, RayTaskError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydsinfer.errors import NodeDiedError, NodeTimeoutError, summary_of
from raydsinfer.groups.nodes import Node, alive_nodes, choose_nodes

_Value = TypeVar("_Value")

_END_S = 5.0  # Ray ends a process within a second; a node that is lost must not hold us


@dataclass(frozen=True, kw_only=True)
class NodeResult(Generic[_Value]):
    """What came of a function on one node: a value, or an error.

    Args:
        node_id: Ray's id of the node.
        node_ip: Its address.
        seconds: Seconds that the function took there; of a failure, until it was known here.
        value: What the function returned; None if it failed.
        error: What it raised, or `NodeDiedError` or `NodeTimeoutError`; None if all is well.
    """

    node_id: str
    node_ip: str
    seconds: float
    value: _Value | None = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.error is None


def run_on_every_node(
    fn: Callable[..., _Value],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    gpu_only: bool = False,
    labels: Mapping[str, str] | None = None,
    num_cpus: float = 0.0,
    num_gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    timeout_s: float | None = None,
    stop_s: float = 5.0,
    on_result: Callable[[NodeResult[_Value]], None] | None = None,
) -> dict[str, NodeResult[_Value]]:
    """Run ``fn(*args, **kwargs)`` once on every node that is alive now, side by side.

    Nothing is tried twice. What fails on one node (an exception, a process that dies, a node that is
    lost) is the result of that node; the others go on. A call that asks for no resources, which is the
    default, also runs where every CPU is taken.

    Where time is up, or this call is interrupted, `fn` gets a `KeyboardInterrupt` and `stop_s` seconds
    before its process is ended.

    Args:
        fn: What to run; travels to the nodes as a pickle.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        gpu_only: Only on nodes with GPUs.
        labels: Only on nodes that have all of these Ray node labels.
        num_cpus: CPUs that each call takes.
        num_gpus: GPUs that each call takes.
        resources: Custom Ray resources that each call takes.
        timeout_s: Seconds that all of it may take; None for no limit.
        stop_s: Seconds that `fn` has to stop by itself. 0: its process is ended at once.
        on_result: Called here with each node's result as it comes in.

    Returns:
        Node id → result, for every node that was asked.

    Raises:
        InvalidSettingError: No living node matches.
    """
    if not ray.is_initialized():
        ray.init()  # what Ray's own calls do
    nodes = choose_nodes(alive_nodes(), gpu_only=gpu_only, labels=labels)
    remote: Any = ray.remote
    asked = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources or {})}
    task = remote(max_retries=0, **asked)(_timed)
    name = getattr(fn, "__name__", "function")
    started, pending, results = time.monotonic(), dict[Any, Node](), dict[str, NodeResult[_Value]]()

    def arrived(node: Node, result: NodeResult[_Value]) -> None:
        results[node.node_id] = result
        if on_result is not None:
            on_result(result)

    try:
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            pending[task.options(scheduling_strategy=there, name=name).remote(fn, tuple(args), dict(kwargs or {}))] = (
                node
            )
        while pending:
            left_s = None if timeout_s is None else max(0.0, started + timeout_s - time.monotonic())
            done, _ = ray.wait(list(pending), num_returns=1, timeout=left_s)
            if not done:
                break
            node = pending.pop(done[0])
            arrived(node, _result(node, done[0], started, asked))
    finally:
        _stop(list(pending), stop_s)
    for node in pending.values():
        late = NodeTimeoutError(node=node.ip, node_id=node.node_id, timeout_s=timeout_s or 0.0)
        arrived(node, _failed(node, late, started))
    return {node.node_id: results[node.node_id] for node in nodes}


def _timed(fn: Callable[..., _Value], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Value, float]:
    began = time.monotonic()
    return fn(*args, **kwargs), time.monotonic() - began


def _result(node: Node, answer: Any, started: float, asked: Mapping[str, Any]) -> NodeResult[Any]:
    try:
        value, seconds = ray.get(answer)
    except Exception as error:  # whatever the function raised, and Ray's own
        return _failed(node, _cause(error, node, asked), started)
    return NodeResult(node_id=node.node_id, node_ip=node.ip, seconds=seconds, value=value)


def _failed(node: Node, error: BaseException, started: float) -> NodeResult[Any]:
    return NodeResult(node_id=node.node_id, node_ip=node.ip, seconds=time.monotonic() - started, error=error)


def _cause(error: Exception, node: Node, asked: Mapping[str, Any]) -> BaseException:
    """What really went wrong, without Ray's wrapping."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    if isinstance(error, WorkerCrashedError):
        reason = "its process died: it crashed, called exit, or was killed, as for want of memory"
    elif isinstance(error, RayNodeDiedError):
        reason = "the node was lost: preempted, shut down, or its Ray ended"
    elif isinstance(error, TaskUnschedulableError):
        wanted = {name: amount for name, amount in asked.items() if amount}
        reason = f"the node was lost, or does not have {wanted}" if wanted else "the node was lost before it began"
    elif isinstance(error, RayError):
        reason = summary_of(error)
    else:
        return error
    return NodeDiedError(node=node.ip, node_id=node.node_id, reason=reason)


def _stop(answers: list[Any], stop_s: float) -> None:
    """Interrupt what still runs, and end what does not stop by itself."""
    for force, wait_s in ((False, stop_s), (True, _END_S)):
        if not answers or (not force and stop_s <= 0):
            continue
        for answer in answers:
            ray.cancel(answer, force=force)
        _, answers = ray.wait(answers, num_returns=len(answers), timeout=wait_s)
