"""A gang in the test's own process: echo engines as ranks, without Ray."""

from __future__ import annotations

import threading
from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.errors import EngineError, WorkerGroupError


class InProcessGang:
    """Behaves like `WorkerGroup`, and can be told to wait.

    Args:
        num_ranks: Echo engines.
        **config: Of `EngineConfig`.

    Attributes:
        calls: Method names, in the order of the calls.
        open: Calls wait while it is not set.
        arrived: Set when a call has come.
    """

    name = "gang-test"

    def __init__(self, num_ranks: int = 1, **config: Any) -> None:
        self.config = EngineConfig(**{"engine": "echo", "batching": "continuous"} | config)
        spec = EngineSpec(model="none", config=self.config)
        self.engines = [EchoEngine(spec, RankContext(world_rank=r, world_size=num_ranks)) for r in range(num_ranks)]
        self.load_report: LoadReport = self.engines[0].load()
        self.ranks = self.engines
        self.calls: list[str] = []
        self.broken = False
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        self._lock = threading.Lock()

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.arrived.set()
        self.open.wait(30)
        with self._lock:
            self.calls.append(method)
            if self.broken:
                raise WorkerGroupError(gang=self.name, phase=method, causes={0: RuntimeError("failed earlier")})
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
