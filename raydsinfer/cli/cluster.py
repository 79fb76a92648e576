"""The Ray cluster that a command works on: found or started, and left as it was."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from raydsinfer.errors import InvalidSettingError, summary_of


@contextmanager
def cluster(address: str | None, *, num_cpus: int, debug: bool) -> Iterator[bool]:
    """Connect to a cluster, or start one on this machine that ends with the command.

    Args:
        address: Ray address; ``local`` always starts one; None takes ``RAY_ADDRESS``, then a cluster
            that runs on this machine, then starts one.
        num_cpus: CPUs that the command needs. One that is started here pretends to have that many if
            the machine has fewer: reading needs a little while all ranks are busy.
        debug: Whether the logs of Ray and of the workers are shown.

    Yields:
        Whether the cluster was started here.

    Raises:
        InvalidSettingError: There is no cluster at that address.
    """
    quiet: dict[str, Any] = {
        "log_to_driver": debug,
        "logging_level": logging.INFO if debug else logging.ERROR,
        "configure_logging": True,
    }
    try:
        if debug:
            started = _init(address, num_cpus, quiet)
            _exit_on_terminate()
            yield started
            return
        # Ray's C++ side writes to stderr past Python's logging, first of all that it was told not to.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with _stderr_closed():
            started = _init(address, num_cpus, quiet)
        _silence_ray_data()
        _exit_on_terminate()
        yield started
    except SystemExit:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:  # by `leave`; Ray's calls make another code of its own
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        ray.shutdown()  # also of what an interrupted start has begun


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Lose what this process writes to file descriptor 2; exceptions come through."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _init(address: str | None, num_cpus: int, quiet: dict[str, Any]) -> bool:
    if address is None and not os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address="auto", **quiet)
            return False
        except ConnectionError:
            address = "local"
    try:
        if address == "local":
            at_least = max(num_cpus, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=at_least, include_dashboard=False, **quiet)
            return True
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise InvalidSettingError(
            name="address",
            value=address or os.environ.get("RAY_ADDRESS"),
            expected="the address of a running Ray cluster, 'auto' or 'local'",
            hint=summary_of(error),
        ) from error
    return False


def this_node() -> dict[str, float]:
    """A sliver of this node's own resource: what asks for it runs here. Empty on a machine outside the cluster."""
    driver: Any = ray  # some of its calls have no annotations
    name = f"node:{driver.util.get_node_ip_address()}"
    return {name: 0.001} if name in driver.cluster_resources() else {}


def _exit_on_terminate() -> None:
    """Clean up on SIGTERM too. Ray's own handler, which `ray.init` sets, ends the process where it is."""

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)


def _silence_ray_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
