"""How a gang answers the requests of a batch, by the way in which its engine batches."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import Completion, GenerateAnswer, GenerateBatch
from raydsinfer.engines.continuous.sampling.settings import needs_static
from raydsinfer.rows.engine_batches import plan_batches, row_request
from raydsinfer.rows.request import Request
from raydsinfer.serving.feeder import Feeder
from raydsinfer.serving.gang import Gang

_END_TIMEOUT_S = 10.0  # its call has failed by then, unless Ray itself hangs

Take = Callable[[Request, GenerateAnswer], None]
"""Gets a request's answer, in the thread that asked. Answers come in any order."""


class Service(Protocol):
    """Answers requests. Several threads may ask at once."""

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        """Have each request answered once.

        Raises:
            WorkerGroupError: The gang failed.
        """
        ...

    def join(self) -> None:
        """Wait for what works in the background, after the gang was shut down."""
        ...


class StaticService:
    """A gang that generates batch by batch. Callers take turns, a whole list of requests each.

    Args:
        gang: The gang.
        config: The engine's settings.
    """

    def __init__(self, gang: Gang, config: EngineConfig) -> None:
        self._gang, self._config = gang, config
        self._turn = threading.Lock()

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        with self._turn:
            answers = list(_generated(requests, self._config, lambda batch: self._gang.run("generate", batch)))
        # In the next caller's turn: the ranks need not wait for texts to be made of tokens.
        for request, answer in answers:
            take(request, answer)

    def join(self) -> None:
        pass


class ContinuousService:
    """A gang whose rows join and leave a running batch, whoever they belong to.

    Args:
        gang: The gang.
        config: The engine's settings.

    Attributes:
        feeder: What keeps the engine full.
    """

    def __init__(self, gang: Gang, config: EngineConfig) -> None:
        self.feeder = Feeder(gang)
        self._config = config

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        of_index = {request.index: request for request in requests if not needs_static(request.generation)}
        self.feeder.answer(
            [row_request(request, self._config, _fresh_seed) for request in of_index.values()],
            lambda answer: take(of_index[answer.key], answer),
        )
        rest = [request for request in requests if request.index not in of_index]
        for request, answer in _generated(rest, self._config, self.feeder.generate):
            take(request, answer)

    def join(self) -> None:
        self.feeder.join(_END_TIMEOUT_S)


def _generated(
    requests: Sequence[Request], config: EngineConfig, generate: Callable[[GenerateBatch], list[list[Completion]]]
) -> Iterable[tuple[Request, GenerateAnswer]]:
    for batch in plan_batches(requests, config, fresh_seed=_fresh_seed):
        for request, completions in zip(batch.requests, generate(batch.call), strict=True):
            yield request, GenerateAnswer(key=request.index, completions=tuple(completions))


def _fresh_seed() -> int:
    return secrets.randbits(63)
