"""A real engine without a model: it answers each prompt with the prompt."""

from __future__ import annotations

import os
import signal
import time
from typing import ClassVar

from raydsinfer.engines.base import Completion, EngineSpec, GenerateBatch, LoadProgress, LoadReport, RankContext
from raydsinfer.errors import EngineError


class EchoEngine:
    """Deterministic, instant, and able to fail on demand (`EngineConfig.echo_fault`).

    A completion is the prompt's own tokens, cut at `max_new_tokens`; it ends with ``stop`` when
    the whole prompt fitted. Tokens are UTF-8 bytes (`ByteTokenizer`).
    """

    requires_process_group: ClassVar[bool] = False

    def __init__(self, spec: EngineSpec, context: RankContext) -> None:
        self._config, self._context = spec.config, context

    def load(self) -> LoadReport:
        self._misbehave("load", b"")
        return LoadReport(mode="echo")

    def progress(self) -> LoadProgress:
        return LoadProgress()

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        for prompt in batch.prompts:
            self._misbehave("generate", bytes(prompt))
        time.sleep(self._config.echo_delay_s)
        limit = batch.generation.max_new_tokens
        answers = [
            Completion(tuple(prompt[:limit]), "stop" if len(prompt) <= limit else "length") for prompt in batch.prompts
        ]
        return [[answer] * batch.generation.num_return_sequences for answer in answers]

    def close(self) -> None:
        pass

    def _misbehave(self, when: str, prompt: bytes) -> None:
        fault = self._config.echo_fault
        if fault is None or fault.when != when or fault.rank != self._context.world_rank:
            return
        if fault.prompt_contains.encode() not in prompt:
            return
        if fault.action == "hang":
            time.sleep(86_400)
        elif fault.action == "exit":
            os._exit(1)
        elif fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise EngineError(doing=f"echo engine, {when}", reason=f"told to fail on rank {fault.rank}")
