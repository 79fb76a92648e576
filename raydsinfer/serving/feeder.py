"""One thread that keeps a continuous engine full with the requests of all who wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

from raydsinfer.engines.base import Completion, GenerateAnswer, GenerateBatch, GenerateRequest
from raydsinfer.errors import EngineError, WorkerGroupError
from raydsinfer.serving.failures import FailedCall, GangFailed, failed_batch, fresh
from raydsinfer.serving.gang import Gang
from raydsinfer.serving.ledger import Ledger

# A call to all ranks costs one to two milliseconds, more while other threads tokenise; a step takes five and
# up. Whoever comes waits for so many steps at most, which nobody notices while requests wait before him.
STEPS_PER_CALL = 32


@dataclass(frozen=True, kw_only=True)
class FeederCounts:
    """What was done so far.

    Args:
        num_calls: Calls of `Engine.advance`.
        num_steps: Forward passes in them.
        num_answers: Requests that were answered.
    """

    num_calls: int = 0
    num_steps: int = 0
    num_answers: int = 0


_Inbox = SimpleQueue[Any]


class Feeder:
    """Lets several callers share a continuous engine; each waits for its own requests only.

    While anything is unanswered a thread calls `Engine.advance`, always for a number of steps and never for a
    time, so that all ranks agree on when it ends. While the ranks work, the callers' threads are free to
    tokenise what comes next and to detokenise what is finished. When all is answered the thread ends: a feeder
    that was forgotten is kept alive by nothing.

    Args:
        gang: A gang whose engines batch continuously.
        most_rows: Says how many requests the engine may have at once; None: any number.
        steps_per_call: Steps of one `advance`.

    Attributes:
        counts: What was done so far.
    """

    def __init__(
        self, gang: Gang, most_rows: Callable[[], int | None] = lambda: None, *, steps_per_call: int = STEPS_PER_CALL
    ) -> None:
        self.counts = FeederCounts()
        self._gang, self._most_rows, self._steps_per_call = gang, most_rows, steps_per_call
        self._lock = threading.Lock()
        self._ledger: Ledger[_Inbox] = Ledger()
        self._batches: deque[tuple[GenerateBatch, _Inbox]] = deque()
        self._feeding = False
        self._thread: threading.Thread | None = None  # the last one that fed
        self._failure: WorkerGroupError | None = None

    def answer(self, requests: Sequence[GenerateRequest], take: Callable[[GenerateAnswer], None]) -> None:
        """Have requests answered. Several threads may call this at once.

        Args:
            requests: Under keys of the caller's own.
            take: Gets each answer, in this thread, as it is finished. Where it raises, the other answers are
                thrown away as they come.

        Raises:
            GangFailed: Requests that `take` has not got stay unanswered.
        """
        inbox: _Inbox = SimpleQueue()
        self._add(lambda: self._ledger.add(requests, inbox))
        with self._ended_by_interrupts():
            for _ in requests:
                take(_received(inbox))

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        """Have a batch generated as a whole, between two calls of `advance`; see `Engine.generate`.

        Raises:
            GangFailed: Its keys are positions of the batch.
        """
        inbox: _Inbox = SimpleQueue()
        self._add(lambda: self._batches.append((batch, inbox)))
        with self._ended_by_interrupts():
            completions: list[list[Completion]] = _received(inbox)
            return completions

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end; it does when all is answered, or when the gang was shut down."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _add(self, add: Callable[[], None]) -> None:
        with self._lock:
            if self._failure is not None:
                raise GangFailed(self._failure)
            add()
            if not self._feeding:
                self._feeding = True
                self._thread = threading.Thread(target=self._feed, name="feeder", daemon=True)
                self._thread.start()

    @contextmanager
    def _ended_by_interrupts(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            raise
        except BaseException:
            # Ctrl-C: nobody waits any more for what the ranks are in the middle of, perhaps for hours.
            self._gang.shutdown()
            raise

    def _feed(self) -> None:
        while True:
            with self._lock:
                batch = self._batches.popleft() if self._batches else None
                if batch is None and not self._ledger.num_unanswered:
                    self._feeding = False
                    return
            if batch is not None:
                self._generate(*batch)
            # After each batch, so that neither kind of caller can keep the other waiting for ever.
            with self._lock:
                requests = self._ledger.take_unsent(self._most_rows())
                is_due = self._ledger.num_sent > 0
            if is_due:
                self._advance(requests)

    def _advance(self, requests: list[GenerateRequest]) -> None:
        was_broken = self._gang.broken
        try:
            advance = self._gang.run("advance", requests, num_steps=self._steps_per_call)
        except BaseException as error:
            self._fail(error, was_broken=was_broken)
            return
        try:
            with self._lock:
                answers = self._ledger.settle(advance)
        except EngineError as error:
            # What the engine has and what it owes is no longer known: only a new gang is sure to be empty.
            self._gang.shutdown()
            self._fail(WorkerGroupError(gang=self._gang.name, phase="advance", causes={0: error}))
            return
        self.counts = replace(
            self.counts,
            num_calls=self.counts.num_calls + 1,
            num_steps=self.counts.num_steps + advance.num_steps,
            num_answers=self.counts.num_answers + len(answers),
        )
        for inbox, answer in answers:
            inbox.put(answer)

    def _generate(self, batch: GenerateBatch, inbox: _Inbox) -> None:
        was_broken = self._gang.broken
        try:
            inbox.put(self._gang.run("generate", batch))
        except BaseException as error:
            call = FailedCall("generate") if was_broken else failed_batch(batch)
            rows = range(call.num_rows)
            if not self._gang.broken:  # the others' requests are where they were
                inbox.put(_failed(error, rows, call.num_rows, call))
                return
            inbox.put(_failed(error, rows, call.num_rows + self._ledger.num_sent, call))
            self._fail(error, was_broken=was_broken, batch=call)

    def _fail(self, error: BaseException, *, was_broken: bool = False, batch: FailedCall | None = None) -> None:
        """Tell all whom it concerns: everybody, or if the gang is usable those whose requests the engine lost.

        Args:
            error: What the gang raised.
            was_broken: It was so before, and worked on nothing.
            batch: The static batch that it worked on, besides the ledger's requests.
        """
        with self._lock:
            broken = self._gang.broken
            num_sent = self._ledger.num_sent
            call = batch or FailedCall("advance", num_sent, num_sent)
            num_on_gang = num_sent + (batch.num_rows if batch else 0)
            dropped = self._ledger.drop(sent_only=not broken)
            batches: list[tuple[GenerateBatch, _Inbox]] = []
            if broken:
                self._failure = _of_gang(error, self._gang.name)
                batches = list(self._batches)
                self._batches.clear()
        for found in dropped:
            found.owner.put(_failed(error, () if was_broken else found.sent, num_on_gang, call))
        for _, inbox in batches:
            inbox.put(_failed(error, (), num_on_gang, call))


def _received(inbox: _Inbox) -> Any:
    found = inbox.get()
    if isinstance(found, BaseException):
        raise fresh(found)
    return found


def _failed(error: BaseException, on_gang: Sequence[int], num_on_gang: int, call: FailedCall) -> BaseException:
    """For one caller. What is no gang's failure stays what it is."""
    return GangFailed(error, on_gang, num_on_gang, call=call) if isinstance(error, WorkerGroupError) else error


def _of_gang(error: BaseException, gang: str) -> WorkerGroupError:
    if isinstance(error, WorkerGroupError):
        return error
    return WorkerGroupError(gang=gang, phase="advance", causes={0: error})
