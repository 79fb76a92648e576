"""The faults: each strikes a running job once, and says what it did."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.machine import PREDICTOR, RANK, Driver, Machine, chosen, signal_to, wait_for

_SHORT_PAUSE_S = 1.5  # well within the deadlines: slow, not stuck
_LONGEST_GOODBYE_S = 60.0


@dataclass
class Scene:
    """What a fault may reach.

    Args:
        machine: The cluster.
        driver: The job's present driver.
        trap: A file: while it is missing, the echo engine's fault strikes once.
        disk: The run directory's own small disk, if it has one.
        generator: Decides who is struck.
    """

    machine: Machine
    driver: Driver
    trap: Path
    disk: Path
    generator: random.Random


def kill_rank(scene: Scene) -> bool:
    """SIGKILL one rank: as the kernel does that is out of memory."""
    pid = chosen(scene.generator, scene.machine.pids(RANK))
    return pid is not None and signal_to(pid, signal.SIGKILL)


def kill_predictor(scene: Scene) -> bool:
    """SIGKILL the actor of Ray Data that holds a gang."""
    pid = chosen(scene.generator, scene.machine.pids(PREDICTOR))
    return pid is not None and signal_to(pid, signal.SIGKILL)


def kill_driver(scene: Scene) -> bool:
    """SIGKILL the driver; a second one goes on with the run."""
    scene.driver.kill()
    scene.driver = scene.machine.start(scene.driver.job)
    return True


def interrupt_driver(scene: Scene) -> bool:
    """Ctrl-C: the driver cleans up and ends; a second one goes on with the run."""
    return end_driver(scene, signal.SIGINT)


def terminate_driver(scene: Scene) -> bool:
    """SIGTERM, as a scheduler sends it."""
    return end_driver(scene, signal.SIGTERM)


def end_driver(scene: Scene, number: signal.Signals) -> bool:
    """Ask the driver to end; one that stays is left for the end of the run to tell."""
    if not signal_to(scene.driver.pid, number):
        return False
    if scene.driver.wait(_LONGEST_GOODBYE_S) is not None:
        scene.driver = scene.machine.start(scene.driver.job)
    return True


def spring_trap(scene: Scene) -> bool:
    """Let the echo engine's fault strike: an exception, a hang, a slow step, no memory, an exit."""
    scene.trap.unlink(missing_ok=True)
    for path in scene.trap.parent.glob(f"{scene.trap.name}.*"):
        path.unlink()
    return bool(wait_for(lambda: sprung(scene.trap) or not scene.driver.running, 30)) and sprung(scene.trap)


def sprung(trap: Path) -> bool:
    """Whether the fault has struck; with ranks of their own, on the first of them."""
    return trap.exists() or any(trap.parent.glob(f"{trap.name}.*"))


def stop_rank(scene: Scene) -> bool:
    """SIGSTOP one rank: it hangs and answers nothing, as a process that holds Python's lock."""
    pid = chosen(scene.generator, scene.machine.pids(RANK))
    return pid is not None and signal_to(pid, signal.SIGSTOP)


def pause_rank(scene: Scene) -> bool:
    """SIGSTOP one rank for a moment: slow, not stuck."""
    pid = chosen(scene.generator, scene.machine.pids(RANK))
    if pid is None or not signal_to(pid, signal.SIGSTOP):
        return False
    threading.Timer(_SHORT_PAUSE_S, signal_to, (pid, signal.SIGCONT)).start()
    return True


def lose_node(scene: Scene) -> bool:
    """A node with a rank on it dies, with all that is on it; another one comes."""
    pid = chosen(scene.generator, scene.machine.pids(RANK))
    node = scene.machine.node_of(pid) if pid is not None else None
    if node is None:
        return False
    scene.machine.lose_node(node)
    scene.machine.add_node()
    return True


def fill_disk(scene: Scene) -> bool:
    """No byte is left where the run is kept until the job has ended for it; then there is room, and it goes on."""
    ballast = scene.disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)
    ended = wait_for(lambda: not scene.driver.running, 90)
    ballast.unlink(missing_ok=True)
    scene.driver = scene.machine.start(scene.driver.job) if ended else scene.driver
    return bool(ended)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        strike: Strikes once; False if there was nobody to strike.
        echo_fault: What the echo engine needs to be told for it.
        share: Of the faults, in parts.
        at_start: Whether it may strike while gangs start.
    """

    strike: Callable[[Scene], bool]
    echo_fault: dict[str, Any] | None = None
    share: int = 1
    at_start: bool = True


KINDS: dict[str, Kind] = {
    "SIGKILL of a rank": Kind(kill_rank, share=4),
    "SIGKILL of a predictor": Kind(kill_predictor, share=3),
    "SIGKILL of the driver, then resumed": Kind(kill_driver, share=3),
    "Ctrl-C of the driver, then resumed": Kind(interrupt_driver, share=1),
    "SIGTERM of the driver, then resumed": Kind(terminate_driver, share=1),
    "exception on one rank": Kind(spring_trap, {"action": "raise", "rank": 1}, share=2, at_start=False),
    "exception on all ranks": Kind(spring_trap, {"action": "raise", "rank": None}, share=1, at_start=False),
    "exit of a rank": Kind(spring_trap, {"action": "exit", "rank": 0}, share=1, at_start=False),
    "hang of a rank": Kind(spring_trap, {"action": "hang", "rank": 1}, share=2, at_start=False),
    "a rank stopped for good": Kind(stop_rank, share=1),
    "slow rank": Kind(pause_rank, share=1),
    "slow step": Kind(spring_trap, {"action": "slow", "rank": 1, "slow_s": 2.0}, share=1, at_start=False),
    "lost node": Kind(lose_node, share=2),
    "full disk, then resumed": Kind(fill_disk, share=1, at_start=False),
    "out of memory": Kind(spring_trap, {"action": "oom", "rank": None, "oom_rows": 3}, share=2, at_start=False),
}


def strike_patiently(strike: Callable[[Scene], bool], scene: Scene, timeout_s: float = 60.0) -> bool:
    """Strike as soon as there is somebody to strike, if the job still runs."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (scene.driver.running or strike is kill_driver):
        if strike(scene):
            return True
        time.sleep(0.1)
    return False
