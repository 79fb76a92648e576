"""Tries a model out before it is trusted: the shapes of its keys and values, and whether packed steps are right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.kv_cache import LayerShape
from raydsinfer.engines.continuous.plan import Chunk, StepPlan
from raydsinfer.errors import UnsupportedError

NUM_TOKENS = 8
"""Tokens of the sequence that is tried: enough for a whole chunk, a second one, and a decode row."""

# Share of the largest logit by which packed and plain logits may differ. Wrong attention is off by the whole.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_16_BITS = 5e-2


class Recorder:
    """Attention without a cache, over one sequence; notes the shapes of keys and values."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}
        self.windows: set[int] = set()

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See `LayerAttention.attend`; the window is noted, but not kept to."""
        if window is not None:
            self.windows.add(window)
        self.layers[layer] = LayerShape(
            num_heads=key.shape[1], num_query_heads=query.shape[1], key_size=key.shape[2], value_size=value.shape[2]
        )
        heads_first = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
        attended = scaled_dot_product_attention(
            heads_first[0],
            heads_first[1],
            heads_first[2],
            is_causal=True,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended[0].transpose(0, 1)


def trial_tokens(vocab_size: int) -> list[int]:
    """Token ids for trials, none of them special in most vocabularies."""
    return [(17 * index + 11) % vocab_size for index in range(NUM_TOKENS)]


def layer_shapes(
    forward: Forward, num_layers: int, num_tokens: int, vocab_size: int, device: str, max_tokens: int
) -> tuple[list[LayerShape], bool]:
    """Keys and values of each layer, and whether a layer sees less than `max_tokens` tokens back.

    Found by a forward of `num_tokens` tokens, which also shows how much memory that takes.

    Raises:
        UnsupportedError: Not every layer asked for our attention once.
    """
    recorder = Recorder()
    token_ids = torch.tensor(trial_tokens(vocab_size), device=device).repeat(-(-num_tokens // NUM_TOKENS))[:num_tokens]
    positions = torch.arange(num_tokens, device=device) % NUM_TOKENS
    forward(token_ids, positions, recorder, torch.tensor([num_tokens - 1], device=device))
    if sorted(recorder.layers) != list(range(num_layers)):
        raise UnsupportedError(
            what="continuous batching of this model",
            why=f"{len(recorder.layers)} of its {num_layers} layers attend in a way that can be led to a paged cache",
            instead="Use batching='static'.",
        )
    shapes = [recorder.layers[index] for index in range(num_layers)]
    return shapes, any(window < max_tokens for window in recorder.windows)


def largest_error(plain: torch.Tensor, compute: Callable[[StepPlan], torch.Tensor], page_size: int) -> float:
    """How far packed logits are from plain ones, relative to what is allowed: above 1 they are wrong.

    Args:
        plain: The model's own logits of `trial_tokens`, (tokens, vocabulary).
        compute: Logits of a step, (sampled, vocabulary).
        page_size: Tokens of a page.
    """
    tokens = tuple(trial_tokens(plain.shape[1]))
    pages = list(range(-(-NUM_TOKENS // page_size)))
    worst = 0.0
    for index, (start, end) in enumerate(((0, 5), (5, 7), (7, 8))):
        is_last = end == NUM_TOKENS
        chunk = Chunk(0, 0, start, end - start, () if is_last else tokens[start:end], True, pages)
        packed = compute(StepPlan(index, (chunk,), (0,) if index == 0 else ()))[0]
        gap = (packed.float() - plain[end - 1].float()).abs().max() / plain[end - 1].float().abs().max()
        worst = max(worst, float(gap.nan_to_num(nan=torch.inf)))
    return worst / _TOLERANCE.get(plain.dtype, _TOLERANCE_16_BITS)
