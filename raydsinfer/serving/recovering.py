"""Every request gets an answer or an error of its own, whatever happens to the gang meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from raydsinfer.config import RecoveryConfig
from raydsinfer.engines.base import GenerateAnswer
from raydsinfer.rows.limits import num_sequences
from raydsinfer.rows.request import Request
from raydsinfer.serving.caller import Caller, TakeReply
from raydsinfer.serving.failures import GangFailed, is_out_of_memory
from raydsinfer.serving.gang import Gang, Supervisor
from raydsinfer.serving.gate import Gate
from raydsinfer.serving.lives import Life, Lives
from raydsinfer.serving.row_limit import RowLimits
from raydsinfer.serving.service import MostRows, Service
from raydsinfer.serving.suspects import Bisection, Judge

logger = logging.getLogger(__name__)


class RecoveringService:
    """Answers requests through one life of the gang after the other. Several threads may ask at once.

    When the gang dies, whoever notices first starts it again; the others wait. Requests that it was working on are
    sent again, together with everybody's; those that were on it at two deaths are bisected with nobody else's on
    the gang (`Bisection`). A row that was alone on the gang when it died `max_row_deaths` times is guilty, if the
    gang then answers a row that it has answered before: a gang that cannot is not well, and no row is to blame.

    Deaths that led to a guilty row are refunded, and so are those while bisecting and those after which fewer rows
    are sent, because the memory of some rank was not enough, once the gang has ever answered anything; a gang that
    dies of itself uses up its restarts all the same, with deaths that nobody was apart for, and with those that
    find it not well.

    Args:
        supervisor: Starts the gang again; has started it.
        make_service: Called for each life of the gang.
        recovery_config: How often a row may bring the gang down.
        max_running: Rows that an engine works on at once.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        make_service: Callable[[Gang, MostRows], Service],
        recovery_config: RecoveryConfig,
        max_running: int,
    ) -> None:
        self._limits = RowLimits(max_running)
        self._lives = Lives(supervisor, lambda gang: make_service(gang, self._limits.most))
        self._max_row_deaths = recovery_config.max_row_deaths
        self._gate = Gate()
        self._witness: Request | None = None

    @property
    def present(self) -> Service:
        """How the gang answers in its present life."""
        return self._lives.present().service

    def answer(self, requests: Sequence[Request], take: TakeReply) -> None:
        """Have each request answered once, or find out that it cannot be.

        Args:
            requests: With different indices.
            take: Gets what becomes of each, in this thread and in any order.

        Raises:
            RestartsExhaustedError: The gang failed more often than it may be started again.
            WorkerGroupError: It was shut down.
            RaydsinferError: It could not be started again, for a reason that can only repeat.
        """
        caller = Caller(requests, take)
        try:
            while caller.open_of():
                unsuspected = caller.unsuspected()
                if unsuspected and not caller.too_large():
                    with self._gate.shared():
                        self._try(caller, [request.index for request in unsuspected])
                else:
                    with self._gate.exclusive():
                        self._bisect(caller)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: nobody waits any more
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """End the gang; idempotent. Calls of `answer` in other threads end with `WorkerGroupError`."""
        self._lives.shutdown()

    def _try(self, caller: Caller, keys: Sequence[int]) -> GangFailed | None:
        """Send requests to the gang, in smaller numbers if the memory is not enough.

        Returns:
            Why some are not answered; None if all are.
        """
        probe_first = False
        while True:
            life, seen = self._lives.present(), self._limits.seen()
            try:
                if probe_first and self._witness is None:
                    cheapest = sorted(caller.open_of(keys), key=_cost)[:1]
                    life.service.answer(cheapest, self._taking(caller, life))
                life.service.answer(caller.open_of(keys), self._taking(caller, life))
                return None
            except GangFailed as failure:
                caller.count_attempts(failure.on_gang)
                if life.gang.broken:
                    failure.life = life.number
                    self._lives.end(life, failure.error)
                if is_out_of_memory(failure.error) and failure.call.num_rows > 1:
                    way = failure.call.way
                    caller.note_limit(failure.on_gang, way, seen[way])
                    if self._limits.lower(seen, failure.call):
                        # Each halves what is sent, so that there are few. What is too much for the memory of one
                        # rank alone must not use up the restarts, so see first that the gang can answer anything.
                        if failure.life is not None:
                            self._lives.refund_if_answers(failure.life)
                            probe_first = True
                        continue
                caller.blame(failure)
                return failure

    def _taking(self, caller: Caller, life: Life) -> Callable[[Request, GenerateAnswer], None]:
        def take(request: Request, answer: GenerateAnswer) -> None:
            if not answer.error:
                self._lives.answered(life)
                if self._witness is None or _cost(request) < _cost(self._witness):
                    self._witness = request
            caller.take(request, answer)

        return take

    def _bisect(self, caller: Caller) -> None:
        bisection = caller.bisection(self._max_row_deaths)
        while (step := bisection.step()) is not None:
            if isinstance(step, Judge):
                self._judge(caller, bisection, step.row)
                continue
            failure = self._try(caller, step.rows)
            if failure is None:
                bisection.survived()
                continue
            bisection.failed([request.index for request in caller.open_of(step.rows)], failure.on_gang)
            if self._witness is not None and failure.life is not None and failure.on_gang:
                self._lives.refund([failure.life])

    def _judge(self, caller: Caller, bisection: Bisection, key: int) -> None:
        if not self._is_well():
            bisection.acquitted()
            return
        bisection.convicted()
        record = caller.record(key)
        if self._witness is not None:
            self._lives.refund(record.lives)
        self._limits.restore(record.limits)
        logger.warning("a row cannot be answered, it gets an error: %s", record.reason)
        caller.convict(key)

    def _is_well(self) -> bool:
        """Whether the gang answers a row that it has answered before; if not, it is started again until it does."""
        if self._witness is None:
            return True  # or so we have to think
        is_well = True
        while True:
            life = self._lives.present()
            witness = Caller([self._witness], lambda request, reply: None)
            failure = self._try(witness, [self._witness.index])
            if failure is None:
                return is_well
            is_well = False
            # Also if all ranks are in step, as after an error on the GPUs that nothing but a new process mends.
            self._lives.end(life, failure.error)


def _cost(request: Request) -> int:
    """Most tokens that a request can take."""
    generation = request.generation
    return num_sequences(generation) * (len(request.token_ids) + generation.max_new_tokens)
