"""Greedy tokens of 16-bit models against plain transformers, where equal logits may be broken either way."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.models import assert_telling


def count_ties(directory: Path, dtype: str, got: list[list[int]], requests: list[list[int]]) -> int:
    """Tokens that are not the plain model's most likely ones, all of which must tie with it.

    Args:
        directory: The model.
        dtype: ``float16`` or ``bfloat16``.
        got: New tokens of each request, generated with end-of-sequence tokens forbidden.
        requests: Prompts.
    """
    return PlainModel(directory, dtype).count_ties(got, requests)


class PlainModel:
    """A model as transformers runs it on the first GPU, in 16 bits and in float32.

    Two logits tie if they are closer than the plain model's own rounding: each may be off by as much as the
    16-bit logits of that position are from float32's. The plain model reads each whole answer at once, so that
    one tie does not excuse what follows.

    Args:
        directory: The model.
        dtype: ``float16`` or ``bfloat16``.
    """

    def __init__(self, directory: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM

        self._models = [
            AutoModelForCausalLM.from_pretrained(directory, dtype=kind).eval().to("cuda:0")
            for kind in (getattr(torch, dtype), torch.float32)
        ]

    @torch.inference_mode()
    def count_ties(self, got: list[list[int]], requests: list[list[int]]) -> int:
        """See the function."""
        assert_telling(got, requests)
        eos, ties = self._models[0].generation_config.eos_token_id, 0
        for request, answer in zip(requests, got, strict=True):
            token_ids = torch.tensor([request + answer], device="cuda:0")
            logits, exact = (model(token_ids).logits[0, len(request) - 1 : -1].float() for model in self._models)
            rounding = (logits - exact).abs().amax(dim=-1)
            logits[:, eos] = -torch.inf  # `min_new_tokens` forbids it
            best = logits.max(dim=-1)
            for step, token in enumerate(answer):
                if token != best.indices[step]:
                    ties += 1
                    gap, most = float(best.values[step] - logits[step, token]), 2 * float(rounding[step])
                    assert gap <= most, (
                        f"step {step}: {token} is {gap:.4f} below {int(best.indices[step])}, over {most:.4f}"
                    )
        return ties
