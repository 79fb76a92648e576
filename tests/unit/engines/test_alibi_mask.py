from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from raydsinfer.engines.alibi_mask import always_mask
from tests.models import tiny_model


@torch.inference_mode()
def test_no_pass_is_without_a_mask_and_none_is_changed() -> None:
    model, seen = tiny_model("bloom"), []

    def build(mask: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        seen.append(mask.tolist())
        return build_alibi_tensor(mask, *arguments, **named)

    model.transformer.build_alibi_tensor = build
    always_mask(model)
    token_ids, cache, padded = torch.tensor([[5, 6, 7], [8, 9, 10]]), DynamicCache(), [[0, 1, 1], [1, 1, 1]]
    model(token_ids, past_key_values=cache)
    model(token_ids[:, :1], past_key_values=cache)
    model(input_ids=token_ids, attention_mask=torch.tensor(padded))
    assert seen == [[[1] * 3] * 2, [[1] * 4] * 2, padded]
