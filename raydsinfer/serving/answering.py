"""From the rows of a call to their answers: bad rows without the gang, the others through it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.tokenizer import Tokenizer
from raydsinfer.errors import CheckpointError, RowFailedError
from raydsinfer.rows.answers import Answer, answer_bad_row, answer_failed, answer_request
from raydsinfer.rows.keys import row_key, run_identity
from raydsinfer.rows.request import BadRow, Request, Row, is_missing, read_row, shown
from raydsinfer.serving.caller import Reply
from raydsinfer.serving.recovering import RecoveringService

logger = logging.getLogger(__name__)

OnError = Literal["row", "raise"]


class RowAnswerer:
    """Answers rows. Several threads may call it at once.

    Args:
        service: Has the gang.
        tokenizer: Of the model; stands several threads.
        spec: What the gang runs.
        use_gpu: Whether on GPUs, which is part of a row's key.
    """

    def __init__(self, service: RecoveringService, tokenizer: Tokenizer, spec: EngineSpec, *, use_gpu: bool) -> None:
        self._service, self._tokenizer, self._spec, self._use_gpu = service, tokenizer, spec, use_gpu

    def answer(
        self, rows: Sequence[Row], call: GenerationConfig, config: EngineConfig, on_error: OnError
    ) -> list[Answer]:
        """One answer a row, in order.

        Args:
            rows: The rows.
            call: Settings that a row does not give itself.
            config: The engine's settings, for its limits.
            on_error: What becomes of rows that cannot be answered.

        Raises:
            RowFailedError: One cannot, and `on_error` is ``raise``.
            RaydsinferError: See `RecoveringService.answer`.
        """
        answers: dict[int, Answer] = {}

        def keep(index: int, answer: Answer) -> None:
            if answer.error and on_error == "raise":
                raise self._row_failed(rows[index], call, answer.error)
            answers[index] = answer

        def take(request: Request, reply: Reply) -> None:
            if reply.error is not None:
                answer = answer_failed(request, reply.error)
            else:
                answer = answer_request(request, reply.completions, self._tokenizer)
            keep(request.index, replace(answer, num_attempts=reply.num_attempts))

        requests = []
        for index, row in enumerate(rows):
            read = read_row(index, row, tokenizer=self._tokenizer, call=call, config=config)
            if isinstance(read, BadRow):
                keep(index, answer_bad_row(read))
            else:
                requests.append(read)
        self._service.answer(requests, take)
        return [answers[index] for index in range(len(rows))]

    def _row_failed(self, row: Row, call: GenerationConfig, reason: str) -> RowFailedError:
        try:
            key = row_key(row, call, run_identity(self._spec, use_gpu=self._use_gpu)).hex()
        except CheckpointError as error:  # the model's files have gone since the start
            logger.warning("a row that failed has no key: %s", error)
            key = "without key"
        asked = shown(row.prompt if is_missing(row.messages) else row.messages)
        return RowFailedError(key=key, row=asked, reason=reason)
