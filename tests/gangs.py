"""Gangs in the test's own process: echo engines as ranks, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.errors import EngineError, RankDiedError, RestartsExhaustedError, WorkerGroupError


class InProcessGang:
    """Behaves like `WorkerGroup`, and can be told to wait or to die.

    Args:
        num_ranks: Echo engines.
        **config: Of `EngineConfig`.

    Attributes:
        calls: Method names, in the order of the calls.
        open: Calls wait while it is not set.
        arrived: Set when a call has come.
        dies: Asked before each call; the last rank dies if it says so.
    """

    name = "gang-test"

    def __init__(self, num_ranks: int = 1, **config: Any) -> None:
        self.config = EngineConfig(**{"engine": "echo", "batching": "continuous"} | config)
        self.spec = EngineSpec(model="none", config=self.config)
        self.engines = [
            EchoEngine(self.spec, RankContext(world_rank=r, world_size=num_ranks)) for r in range(num_ranks)
        ]
        self.load_report: LoadReport = self.engines[0].load()
        self.ranks = self.engines
        self.calls: list[str] = []
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self.dies: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.arrived.set()
        self.open.wait(30)
        with self._lock:
            self.calls.append(method)
            if self.broken:
                raise WorkerGroupError(gang=self.name, phase=method, causes={0: RuntimeError("failed earlier")})
            if self.dies():
                self.broken = True
                died = RankDiedError(process="process 7 on node 10.0.0.1", reason="by chance")
                raise WorkerGroupError(gang=self.name, phase=method, causes={len(self.engines) - 1: died})
            answers, causes = [], {}
            for rank, engine in enumerate(self.engines):
                try:
                    answers.append(getattr(engine, method)(*args, **kwargs))
                except EngineError as error:
                    causes[rank] = error
            if causes:
                self.broken = len(causes) < len(self.engines)
                raise WorkerGroupError(gang=self.name, phase=method, causes=causes)
            return answers[0]

    def shutdown(self) -> None:
        self.broken = True
        self.open.set()


class InProcessSupervisor:
    """Behaves like `GangSupervisor`, with gangs in this process. A fault of rank 0 of 2 kills its gang.

    Args:
        num_ranks: Ranks of a gang.
        max_restarts: Restarts that count and may be.
        dies: Asked before each call of any gang.
        **config: Of `EngineConfig`.

    Attributes:
        gangs: All so far.
        num_refunded: Restarts that do not count.
    """

    def __init__(
        self, num_ranks: int = 2, *, max_restarts: int = 8, dies: Callable[[], bool] = lambda: False, **config: Any
    ) -> None:
        self._make = lambda: InProcessGang(num_ranks, **config)
        self._max_restarts, self._dies = max_restarts, dies
        self.gangs: list[InProcessGang] = []
        self.num_refunded = self.num_taken = self.num_answered = 0
        self._closed = False
        self._start()

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def group(self) -> InProcessGang:
        return self.gangs[-1]

    @property
    def spec(self) -> EngineSpec:
        return self.group.spec

    @property
    def num_restarts(self) -> int:
        return len(self.gangs) - 1

    @property
    def calls(self) -> list[str]:
        """Calls of all gangs, in order."""
        return [call for gang in self.gangs for call in gang.calls]

    def restart(self, error: WorkerGroupError) -> InProcessGang:
        assert self.group.broken
        if self._closed:
            raise error
        if self.num_taken >= self._max_restarts:
            raise RestartsExhaustedError(
                gang=self.name, limit=self._max_restarts, setting="max_restarts", history=(str(error),)
            ) from error
        self.num_taken += 1
        return self._start()

    def refund(self, num_restarts: int) -> None:
        assert num_restarts <= self.num_taken, "more than were taken"
        self.num_taken -= num_restarts
        self.num_refunded += num_restarts

    def answered(self) -> None:
        self.num_answered += 1

    def shutdown(self) -> None:
        self._closed = True
        self.group.shutdown()

    def _start(self) -> InProcessGang:
        gang = self._make()
        gang.dies = self._dies
        self.gangs.append(gang)
        return gang
