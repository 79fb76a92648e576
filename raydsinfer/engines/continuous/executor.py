"""Carries out a step's plan on this rank's device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from raydsinfer.engines.continuous.attention.base import DecodeAttention, PrefillAttention
from raydsinfer.engines.continuous.attention.step import StepAttention
from raydsinfer.engines.continuous.buckets import batch_buckets, fitting, length_bucket
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.graphs import CapturedStep, Graphs
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.plan import StepPlan
from raydsinfer.engines.continuous.sampling.sampler import Sampled, Sampler
from raydsinfer.engines.continuous.statistics import Statistics
from raydsinfer.engines.continuous.step_inputs import (
    Prompts,
    Rows,
    decode_array,
    prompts_of,
    rows_of,
    sampled_of,
)
from raydsinfer.errors import summary_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attentions:
    """Which attention to use.

    Args:
        decode: Makes one for decode rows: for captured steps of so many rows, or for any number (None).
        prefill: For prefill chunks.
        pads: Whether that for decode rows works on rows of one length.
    """

    decode: Callable[[int | None], DecodeAttention]
    prefill: PrefillAttention
    pads: bool


class Launched:
    """A step that runs on the device, or has run. The host learns of its tokens by `wait`.

    Args:
        sequences: Whose tokens they are, in order.
        sampled: The tokens on the device.
        on_gpu: Whether the device works by itself.
    """

    def __init__(self, sequences: tuple[int, ...], sampled: Sampled, *, on_gpu: bool) -> None:
        self.sequences = sequences
        self._tokens, self._logprobs = (
            None if t is None else _to_host(t, on_gpu) for t in (sampled.tokens, sampled.logprobs)
        )
        self._done: Any = None
        if on_gpu:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> tuple[list[int], list[float] | None]:
        """Tokens, and their log-probabilities if any row wants them, in the order of `sequences`."""
        if self._done is not None:
            self._done.synchronize()
        count = len(self.sequences)
        assert self._tokens is not None  # noqa: S101
        logprobs = None if self._logprobs is None else self._logprobs[:count].tolist()
        return self._tokens[:count].tolist(), logprobs


class Executor:
    """The model, its KV cache and its captured graphs.

    Args:
        forward: Runs the model.
        cache: Keys and values.
        tables: Pages of each slot.
        sampler: Chooses tokens.
        attentions: Which attention to use.
        max_running: Most rows of a decode step.
        max_tokens: Tokens of the longest sequence.
        device: torch device as a string.
        graphs: Whether decode steps are captured.
        agree: Makes tokens those of rank 0 on all ranks; None for one rank.
        statistics: Counts steps.
    """

    def __init__(
        self,
        *,
        forward: Forward,
        cache: KVCache,
        tables: PageTables,
        sampler: Sampler,
        attentions: Attentions,
        max_running: int,
        max_tokens: int,
        device: str,
        graphs: bool,
        agree: Callable[[torch.Tensor], None] | None,
        statistics: Statistics,
    ) -> None:
        self._forward, self._cache, self._tables, self._sampler = forward, cache, tables, sampler
        self._attentions, self._max_tokens, self._device = attentions, max_tokens, device
        self._on_gpu = device != "cpu"
        self._graphs = Graphs() if graphs else None
        self._buckets = batch_buckets(max_running)
        self._eager = attentions.decode(None)
        self._agree, self._statistics = agree, statistics

    @property
    def num_graphs(self) -> int:
        """Decode steps that were captured."""
        return 0 if self._graphs is None else len(self._graphs)

    def launch(self, plan: StepPlan) -> Launched:
        """Start a step. Returns while the device still works on it, where it works by itself."""
        sequences = tuple([chunk.sequence for chunk in plan.chunks if chunk.samples])
        logits, slots, positions, host_slots = self.compute(plan)
        if not sequences:  # a part of a long prompt
            return Launched((), Sampled(torch.zeros(0, dtype=torch.int64)), on_gpu=False)
        sampled = self._sampler.sample(logits, slots, positions, host_slots)
        if self._agree is not None:
            self._agree(sampled.tokens)
            if sampled.logprobs is not None:
                self._agree(sampled.logprobs)
            self._sampler.record(slots, sampled.tokens, positions)
        return Launched(sequences, sampled, on_gpu=self._on_gpu)

    def compute(self, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        """Run the model, without choosing tokens.

        Returns:
            Of each chunk that samples: logits (rows, vocabulary), perhaps with rows of padding behind; slots and
            positions of the new tokens, as many; and the slots on the host, without padding.
        """
        self._tables.update(plan)
        self._sampler.flush()
        return self._decode(plan) if plan.is_decode_only else self._mixed(plan)

    def _decode(self, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        count = len(plan.chunks)
        bucket = fitting(self._buckets, count) if self._graphs is not None else None
        array = decode_array(plan.chunks, self._tables, self._cache.page_size, bucket or count)
        longest = int(array[3].max())
        step = None if bucket is None else self._captured(bucket, self._longest(longest))
        if step is None:
            rows = rows_of(array, upload(array, self._device), count)
            logits = self._run_rows(rows, self._eager, longest)
            self._statistics.eager_steps += 1
        else:
            step.inputs.copy_(upload(array, self._device), non_blocking=True)
            rows = rows_of(array, step.inputs, count)
            step.decode.begin(rows, longest)
            step.graph.replay()
            logits = step.logits
            self._statistics.graph_steps += 1
        return logits, rows.slots, rows.positions + 1, rows.host_slots.tolist()

    def _longest(self, longest: int) -> int:
        return length_bucket(longest, self._max_tokens) if self._attentions.pads else self._max_tokens

    def _captured(self, bucket: int, longest: int) -> CapturedStep | None:
        """A captured step of that size; None if this model cannot be captured, and then nothing is from now on."""
        assert self._graphs is not None  # noqa: S101
        found = self._graphs.find(bucket, longest)
        if found is not None:
            return found
        array = decode_array((), self._tables, self._cache.page_size, bucket)
        inputs = upload(array, self._device)
        rows, decode = rows_of(array, inputs, 0), self._attentions.decode(bucket)
        decode.begin(rows, longest)
        try:
            return self._graphs.capture(
                bucket, longest, inputs, decode, lambda: self._forward_rows(rows, decode, longest)
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a forward that waits for the device, for example
            logger.warning("decode steps run without CUDA graphs, and slower: %s", summary_of(error))
            self._graphs = None
            return None

    def _run_rows(self, rows: Rows, decode: DecodeAttention, longest: int) -> torch.Tensor:
        decode.begin(rows, longest)
        return self._forward_rows(rows, decode, longest)

    def _forward_rows(self, rows: Rows, decode: DecodeAttention, longest: int) -> torch.Tensor:
        token_ids = self._sampler.history[rows.slots, rows.positions]
        attention = self._attention(rows, None, decode, longest)
        return self._forward(token_ids, rows.positions, attention, compiled=self._graphs is not None)

    def _mixed(self, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        count = sum([chunk.is_decode for chunk in plan.chunks])
        rows, longest, page_size = None, 1, self._cache.page_size
        prompts = prompts_of(plan.chunks[count:], self._tables, page_size, self._device)
        token_ids, positions = prompts.token_ids, prompts.positions
        if count:
            array = decode_array(plan.chunks[:count], self._tables, page_size, count)
            rows = rows_of(array, upload(array, self._device), count)
            longest = rows.longest
            self._eager.begin(rows, longest)
            token_ids = torch.cat([self._sampler.history[rows.slots, rows.positions], token_ids])
            positions = torch.cat([rows.positions, positions])
        places, slots, new_positions, host_slots = sampled_of(plan, self._device)
        attention = self._attention(rows, prompts, self._eager, longest)
        logits = self._forward(token_ids, positions, attention, places)
        self._statistics.eager_steps += 1
        return logits, slots, new_positions, host_slots

    def _attention(
        self, rows: Rows | None, prompts: Prompts | None, decode: DecodeAttention, longest: int
    ) -> StepAttention:
        return StepAttention(
            cache=self._cache,
            rows=rows,
            prompts=prompts,
            longest=longest,
            decode=decode,
            prefill=self._attentions.prefill,
            max_tokens=self._max_tokens,
        )


def _to_host(tensor: torch.Tensor, on_gpu: bool) -> torch.Tensor:
    if not on_gpu:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
