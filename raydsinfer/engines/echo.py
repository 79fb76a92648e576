"""A real engine without a model: it answers each prompt with the prompt."""

from __future__ import annotations

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
    Pulse,
    RankContext,
)
from raydsinfer.engines.echo_fault import strike
from raydsinfer.engines.steps import Steps
from raydsinfer.errors import EngineError

_STEP_S = 0.1  # of a batch that takes longer


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
    Its memory (``oom``) holds the requests that run.
    """

    requires_process_group: ClassVar[bool] = False

    def __init__(self, spec: EngineSpec, context: RankContext) -> None:
        self._config, self._context = spec.config, context
        self._waiting: deque[GenerateRequest] = deque()
        self._running: list[_Running] = []
        self._steps = Steps()

    def load(self) -> LoadReport:
        with self._steps.call("load"):
            strike(self._config.echo_fault, self._context.world_rank, "load")
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

    def pulse(self) -> Pulse:
        return self._steps.read()

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        with self._steps.call("generate"):
            self._strike(batch.prompts, len(batch.prompts))
            self._pass_time(self._config.echo_delay_s)
        answers = [_echo(prompt, batch.generation) for prompt in batch.prompts]
        return [[answer] * batch.generation.num_return_sequences for answer in answers]

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        answers = [self._refusal(request) for request in requests if self._needs(request) > self._num_kv_tokens]
        self._waiting.extend(request for request in requests if self._needs(request) <= self._num_kv_tokens)
        done = 0
        try:
            with self._steps.call("advance"):
                while done < num_steps and (self._running or self._waiting):
                    answers += self._step()
                    self._steps.count()
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
        free = max(0, self._config.max_running - len(self._running))
        taken = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        self._running += [_Running(request, _echo(request.token_ids, request.generation)) for request in taken]
        if taken:
            # Those that were there before may be what fills the memory now.
            out_of_memory = self._config.echo_fault is not None and self._config.echo_fault.action == "oom"
            suspects = [running.request for running in self._running] if out_of_memory else taken
            self._strike([request.token_ids for request in suspects], len(self._running))
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

    def _strike(self, prompts: Sequence[Sequence[int]], num_rows: int) -> None:
        if self._config.echo_fault is not None:
            texts = [bytes(prompt) for prompt in prompts]
            strike(self._config.echo_fault, self._context.world_rank, "generate", texts, num_rows)

    def _pass_time(self, seconds: float) -> None:
        """The time of a batch, in steps."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_S))
            self._steps.count()


def _echo(prompt: Sequence[int], generation: GenerationConfig) -> Completion:
    limit = generation.max_new_tokens
    token_ids = tuple(prompt[:limit])
    logprobs = (0.0,) * len(token_ids) if generation.return_logprobs else ()
    return Completion(token_ids, "stop" if len(prompt) <= limit else "length", logprobs)
