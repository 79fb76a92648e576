"""A real engine without a model: it answers each prompt with the prompt."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import (
    Advance,
    Completion,
    EngineSpec,
    GenerateAnswer,
    GenerateBatch,
    GenerateRequest,
    LoadProgress,
    LoadReport,
    RankContext,
)
from raydsinfer.errors import EngineError


@dataclass
class _Running:
    request: GenerateRequest
    completion: Completion
    num_steps: int = 0


class EchoEngine:
    """Deterministic, instant, and able to fail on demand (`EngineConfig.echo_fault`).

    A completion is the prompt's own tokens, cut at `max_new_tokens`; it ends with ``stop`` when
    the whole prompt fitted. Tokens are UTF-8 bytes (`ByteTokenizer`), each of probability one.

    With ``batching="continuous"`` it also answers `advance`: requests are taken on in the order in which
    they came, `EngineConfig.max_running` at once, and a step yields one token of each, so that short ones leave
    before long ones. `kv_cache_bytes` holds as many tokens; a request that needs more gets an error for an
    answer. `echo_delay_s` is the time of a step, and `echo_fault` strikes in the first step of the request.
    """

    requires_process_group: ClassVar[bool] = False

    def __init__(self, spec: EngineSpec, context: RankContext) -> None:
        self._config, self._context = spec.config, context
        self._waiting: deque[GenerateRequest] = deque()
        self._running: list[_Running] = []

    def load(self) -> LoadReport:
        self._misbehave("load", b"")
        # "auto" is static: rehearsals should need no more than they did.
        if self._config.batching != "continuous":
            return LoadReport(mode="echo")
        return LoadReport(
            mode="echo",
            batching="continuous",
            max_running=self._config.max_running,
            num_kv_tokens=self._num_kv_tokens,
        )

    def progress(self) -> LoadProgress:
        return LoadProgress()

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        for prompt in batch.prompts:
            self._misbehave("generate", bytes(prompt))
        time.sleep(self._config.echo_delay_s)
        answers = [_echo(prompt, batch.generation) for prompt in batch.prompts]
        return [[answer] * batch.generation.num_return_sequences for answer in answers]

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        answers = [self._refusal(request) for request in requests if self._needs(request) > self._num_kv_tokens]
        self._waiting.extend(request for request in requests if self._needs(request) <= self._num_kv_tokens)
        done = 0
        try:
            while done < num_steps and (self._running or self._waiting):
                answers += self._step()
                done += 1
        except EngineError:
            self._running.clear()
            self._waiting.clear()
            raise
        return Advance(
            answers=tuple(answers), num_running=len(self._running), num_waiting=len(self._waiting), num_steps=done
        )

    def close(self) -> None:
        self._running.clear()
        self._waiting.clear()

    def _step(self) -> list[GenerateAnswer]:
        while self._waiting and len(self._running) < self._config.max_running:
            request = self._waiting.popleft()
            self._misbehave("generate", bytes(request.token_ids))
            self._running.append(_Running(request, _echo(request.token_ids, request.generation)))
        time.sleep(self._config.echo_delay_s)
        for running in self._running:
            running.num_steps += 1
        done = [running for running in self._running if running.num_steps == len(running.completion.token_ids)]
        self._running = [running for running in self._running if running.num_steps < len(running.completion.token_ids)]
        return [
            GenerateAnswer(
                key=running.request.key,
                completions=(running.completion,) * running.request.generation.num_return_sequences,
            )
            for running in done
        ]

    @property
    def _num_kv_tokens(self) -> int:
        return self._config.kv_cache_bytes or self._config.max_running * self._config.max_tokens

    def _needs(self, request: GenerateRequest) -> int:
        return len(request.token_ids) + request.generation.max_new_tokens

    def _refusal(self, request: GenerateRequest) -> GenerateAnswer:
        reason = f"needs {self._needs(request)} tokens of the KV cache, which holds {self._num_kv_tokens}"
        return GenerateAnswer(key=request.key, error=f"{reason}: raise kv_cache_bytes or lower max_new_tokens")

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


def _echo(prompt: Sequence[int], generation: GenerationConfig) -> Completion:
    limit = generation.max_new_tokens
    token_ids = tuple(prompt[:limit])
    logprobs = (0.0,) * len(token_ids) if generation.return_logprobs else ()
    return Completion(token_ids, "stop" if len(prompt) <= limit else "length", logprobs)
