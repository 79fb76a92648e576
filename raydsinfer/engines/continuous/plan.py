"""What a step does, in plain values: the scheduler writes it, the executor carries it out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from raydsinfer.errors import InvalidSettingError, RowError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a scheduler may use.

    Args:
        max_running: Sequences at once, which is the number of slots.
        max_step_tokens: Tokens in one forward, prefill and decode together.
        num_pages: Pages of the KV cache.
        page_size: Tokens that a page holds.
        max_tokens: Tokens of the longest sequence, prompt and new ones together; None: all that fit.
        min_admission: New sequences start when so many can start together: a step with a prefill is
            dearer than one without.
        share_prefixes: Whether equal beginnings of prompts are computed once.

    Raises:
        InvalidSettingError: A number below 1.
    """

    max_running: int
    max_step_tokens: int
    num_pages: int
    page_size: int
    max_tokens: int | None = None
    min_admission: int = 1
    share_prefixes: bool = True

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None and value < 1 and name != "share_prefixes":
                raise InvalidSettingError(name=name, value=value, expected="1 or more")

    def check(self, num_prompt: int, max_new_tokens: int) -> None:
        """Refuse what could never run, even alone.

        Args:
            num_prompt: Tokens of a prompt.
            max_new_tokens: Tokens that it may generate.

        Raises:
            RowError: It is empty, may generate nothing, or is longer than `max_tokens` or the whole KV cache.
        """
        if not num_prompt:
            raise RowError(kind="prompt", reason="the prompt has no tokens; give at least one")
        if max_new_tokens < 1:
            raise RowError(kind="generation", reason=f"max_new_tokens={max_new_tokens}; it has to be 1 or more")
        limit, total = self.num_pages * self.page_size, num_prompt + max_new_tokens
        if total > limit:
            reason = (
                f"the prompt has {num_prompt} tokens and max_new_tokens is {max_new_tokens}, together {total}, but the "
                f"KV cache of the gang holds {limit}; shorten the prompt, lower max_new_tokens, raise kv_cache_bytes "
                "or gpu_memory_utilization, or give the gang more GPUs"
            )
            raise RowError(kind="length", reason=reason)
        if self.max_tokens is not None and total > self.max_tokens:
            reason = (
                f"the prompt has {num_prompt} tokens and max_new_tokens is {max_new_tokens}, together {total}, but "
                f"max_tokens is {self.max_tokens}; shorten the prompt, lower max_new_tokens or raise max_tokens"
            )
            raise RowError(kind="length", reason=reason)


class Chunk(NamedTuple):
    """Tokens of one sequence in one step.

    A named tuple rather than a frozen dataclass: hundreds are made a step, and it takes a third of the time.

    Args:
        sequence: Its number.
        slot: Its place among the running ones, 0 to `max_running` - 1.
        start: Position of the first token that is computed.
        length: How many are.
        token_ids: Input tokens of a prefill chunk. Empty for a decode row, whose one input token is the last
            that was sampled for the sequence and lies on the device.
        samples: Whether the last position yields a new token.
        pages: Pages of the sequence: position ``p`` lies in ``pages[p // page_size]`` at ``p % page_size``.
            They cover ``start + length``. This is the live list: until the step is committed it only grows.
    """

    sequence: int
    slot: int
    start: int
    length: int
    token_ids: tuple[int, ...]
    samples: bool
    pages: list[int]

    @property
    def is_decode(self) -> bool:
        """Whether this is the one token of a sequence whose prompt is computed."""
        return not self.token_ids


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward.

    Args:
        index: Number of the step, from 0.
        chunks: Decode rows first, in order of admission; then prefill chunks.
        admitted: Sequences that got a slot in this step, also those that come back after preemption.
    """

    index: int
    chunks: tuple[Chunk, ...]
    admitted: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward."""
        return sum([chunk.length for chunk in self.chunks])

    @property
    def is_decode_only(self) -> bool:
        """Whether no chunk is a prefill."""
        return self.chunks[-1].is_decode
