"""Where a sequence ends; decided on the host, where text is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import FinishReason
from raydsinfer.engines.generation import ends_with_stop


class StopRule:
    """Says of a sequence, after each new token, whether it ends with it.

    As in a static batch, `min_new_tokens` puts off the end-of-sequence token only, which the sampler forbids
    until then; a stop string ends a sequence at any time.

    Args:
        generation: The sequence's settings.
        eos_ids: Tokens that end a sequence.
        decode: Token ids to text, special tokens included.
    """

    def __init__(
        self, generation: GenerationConfig, eos_ids: Collection[int], decode: Callable[[Sequence[int]], str]
    ) -> None:
        self._max_new_tokens, self._stops = generation.max_new_tokens, generation.stop_list
        self._eos_ids, self._decode = eos_ids, decode

    def finish_reason(self, before: Sequence[int], token: int) -> FinishReason | None:
        """Why the sequence ends with a token; None if it goes on.

        Args:
            before: Its new tokens before that one, none of which ended it.
            token: The newest.
        """
        if token in self._eos_ids:
            return "stop"
        # Text costs far more than tokens, so only rows with stop strings are decoded.
        if self._stops and ends_with_stop([*before, token], self._decode, self._stops):
            return "stop"
        return "length" if len(before) + 1 >= self._max_new_tokens else None
