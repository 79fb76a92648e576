"""How a gang answers the requests of a batch, by the way in which its engine batches."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import Completion, GenerateAnswer, GenerateBatch
from raydsinfer.engines.continuous.sampling.settings import needs_static
from raydsinfer.errors import WorkerGroupError
from raydsinfer.rows.engine_batches import plan_batches, row_request
from raydsinfer.rows.request import Request
from raydsinfer.serving.failures import FailedCall, GangFailed, Way, failed_batch
from raydsinfer.serving.feeder import Feeder
from raydsinfer.serving.gang import Gang

_END_TIMEOUT_S = 10.0  # its call has failed by then, unless Ray itself hangs

Take = Callable[[Request, GenerateAnswer], None]
"""Gets a request's answer, in the thread that asked. Answers come in any order."""

MostRows = Callable[[Way], "int | None"]
"""Says how much may be on the gang at once, as far as that is known; None: any number.

Rows of the running batch for `advance`, sequences of a batch for `generate`.
"""

_Answers = Iterable[tuple[Request, GenerateAnswer]]


class Service(Protocol):
    """Answers requests while its gang lives. Several threads may ask at once."""

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        """Have each request answered once.

        Raises:
            GangFailed: Requests that `take` has not got stay unanswered. Its keys are their indices.
        """
        ...

    def join(self) -> None:
        """Wait for what works in the background, after the gang was shut down."""
        ...


def make_service(gang: Gang, config: EngineConfig, most_rows: MostRows) -> Service:
    """The service that fits a gang, by how its engine turned out to batch.

    Args:
        gang: The gang.
        config: The engine's settings.
        most_rows: How much may be on the gang at once.
    """
    is_continuous = gang.load_report.batching == "continuous"
    return (ContinuousService if is_continuous else StaticService)(gang, config, most_rows)


def unlimited(way: Way) -> None:
    """No limit of rows but the settings'."""


class StaticService:
    """A gang that generates batch by batch. Callers take turns, a whole list of requests each.

    Args:
        gang: The gang.
        config: The engine's settings.
        most_rows: How much may be on the gang at once.
    """

    def __init__(self, gang: Gang, config: EngineConfig, most_rows: MostRows = unlimited) -> None:
        self._gang, self._config, self._most_rows = gang, config, most_rows
        self._turn = threading.Lock()

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        answers: list[tuple[Request, GenerateAnswer]] = []
        failure = None
        with self._turn:
            try:
                answers += _refused(requests)
                wanted = [request for request in requests if not request.generation.return_logprobs]
                for found in _generated(wanted, self._config, self._most_rows("generate"), self._generate):
                    answers.append(found)
            except GangFailed as error:
                failure = error
        # In the next caller's turn: the ranks need not wait for texts to be made of tokens. What was answered
        # before a failure stays answered.
        for request, answer in answers:
            take(request, answer)
        if failure is not None:
            raise failure

    def join(self) -> None:
        pass

    def _generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        call = FailedCall() if self._gang.broken else failed_batch(batch)
        try:
            completions: list[list[Completion]] = self._gang.run("generate", batch)
        except WorkerGroupError as error:
            raise GangFailed(error, range(call.num_rows), call.num_rows, call=call) from error
        return completions


class ContinuousService:
    """A gang whose rows join and leave a running batch, whoever they belong to.

    Args:
        gang: The gang.
        config: The engine's settings.
        most_rows: How much may be on the gang at once.

    Attributes:
        feeder: What keeps the engine full.
    """

    def __init__(self, gang: Gang, config: EngineConfig, most_rows: MostRows = unlimited) -> None:
        self.feeder = Feeder(gang, lambda: most_rows("advance"))
        self._config, self._most_rows = config, most_rows

    def answer(self, requests: Sequence[Request], take: Take) -> None:
        of_index = {request.index: request for request in requests if not needs_static(request.generation)}
        self.feeder.answer(
            [row_request(request, self._config, _fresh_seed) for request in of_index.values()],
            lambda answer: take(of_index[answer.key], answer),
        )
        rest = [request for request in requests if request.index not in of_index]
        for request, answer in _generated(rest, self._config, self._most_rows("generate"), self.feeder.generate):
            take(request, answer)

    def join(self) -> None:
        self.feeder.join(_END_TIMEOUT_S)


def _generated(
    requests: Sequence[Request],
    config: EngineConfig,
    most_sequences: int | None,
    generate: Callable[[GenerateBatch], list[list[Completion]]],
) -> _Answers:
    for batch in plan_batches(requests, config, fresh_seed=_fresh_seed, most_sequences=most_sequences):
        try:
            answers = generate(batch.call)
        except GangFailed as failure:
            failure.on_gang = [batch.requests[position].index for position in failure.on_gang]
            raise
        for request, completions in zip(batch.requests, answers, strict=True):
            yield request, GenerateAnswer(key=request.index, completions=tuple(completions))


def _refused(requests: Sequence[Request]) -> _Answers:
    """Those for a continuous engine. They come here if a gang that was one batches statically since a restart."""
    reason = "return_logprobs needs continuous batching, which this gang has not had since it was started again"
    for request in requests:
        if request.generation.return_logprobs:
            yield request, GenerateAnswer(key=request.index, error=reason)


def _fresh_seed() -> int:
    return secrets.randbits(63)
