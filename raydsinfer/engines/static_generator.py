"""Generates a batch as a whole, by transformers' `generate`: one rank's part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from raydsinfer.engines.base import Completion, GenerateBatch, RankContext
from raydsinfer.engines.engine_errors import MEMORY_HINT, engine_errors
from raydsinfer.engines.generation import (
    CountSteps,
    StopStrings,
    chosen_logprobs,
    generate_arguments,
    pad_left,
    read_completion,
    stop_length,
)
from raydsinfer.engines.kernel_workspace import rows_to_reserve
from raydsinfer.engines.model_loader import LoadedModel
from raydsinfer.engines.steps import Steps
from raydsinfer.errors import UnsupportedError


class StaticGenerator:
    """Rows of a batch start together, and all wait for the longest.

    Args:
        loaded: The model.
        context: Where this rank stands.
        steps: Told of each token.
    """

    def __init__(self, loaded: LoadedModel, context: RankContext, steps: Steps) -> None:
        self._loaded, self._context, self._steps = loaded, context, steps
        self._kernels = loaded.mode == "kernel_inject"

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            UnsupportedError: The kernels have no beams.
        """
        generation, loaded = batch.generation, self._loaded
        if self._kernels and generation.num_beams > 1:
            raise UnsupportedError(
                what="num_beams > 1 with kernel injection",
                why="the kernels' KV cache cannot be reordered",
                instead="Use num_beams=1, or kernel_inject=False.",
            )
        ids, mask = (t.to(self._context.device) for t in pad_left(batch.prompts, loaded.pad_id))
        arguments = generate_arguments(generation, loaded.pad_id, loaded.config.use_cache)
        arguments["logits_processor"] = LogitsProcessorList([CountSteps(self._steps.count)])
        if generation.stop_list:
            criterion = StopStrings(generation.stop_list, loaded.tokenizer.decode_whole, ids.shape[1])
            arguments["stopping_criteria"] = StoppingCriteriaList([criterion])
        torch.manual_seed(batch.seed)
        if generation.return_logprobs:
            found = self._forward(ids, mask, return_dict_in_generate=True, output_logits=True, **arguments)
            rows = found.sequences[:, ids.shape[1] :]
            logprobs: Sequence[Sequence[float]] = chosen_logprobs(found.logits, rows)
        else:
            rows = self._forward(ids, mask, **arguments)[:, ids.shape[1] :]
            logprobs = [()] * len(rows)
        answers = [self._completion(*row, batch) for row in zip(rows.tolist(), logprobs, strict=True)]
        size = generation.num_return_sequences
        return [answers[i : i + size] for i in range(0, len(answers), size)]

    def reserve_workspace(self) -> None:
        """Of the kernels, which size it at the first forward, for that batch: make it the largest.

        Raises:
            EngineError: There is no memory for it.
        """
        if self._context.device != "cpu":
            torch.cuda.empty_cache()  # the kernels ask the driver for memory, not torch
        rows = rows_to_reserve(
            self._loaded.model.config,
            rows=self._loaded.config.max_batch_size,
            max_tokens=self._loaded.config.max_tokens,
            tp_size=self._context.world_size,
        )
        ids = torch.full((rows, 2), self._loaded.pad_id, device=self._context.device)
        with engine_errors("reserving the KV workspace", MEMORY_HINT):
            self._forward(ids, torch.ones_like(ids), max_new_tokens=1, min_new_tokens=1, do_sample=False)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **arguments: Any) -> Any:
        model = self._loaded.model
        if self._kernels:
            from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache

            model.reset_cache()
            arguments["past_key_values"] = CountingCache()
        return model.generate(input_ids=ids, attention_mask=mask, **arguments)

    def _completion(self, row: list[int], logprobs: Sequence[float], batch: GenerateBatch) -> Completion:
        stops = batch.generation.stop_list
        stopped_at = stop_length(row, self._loaded.tokenizer.decode_whole, stops) if stops else None
        return read_completion(row, self._loaded.eos_ids, stopped_at, logprobs)
