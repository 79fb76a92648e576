"""Models whose text would be wrong in packed steps are refused by their configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig, GenerationConfig

from raydsinfer.engines.continuous.known import require_known
from raydsinfer.errors import UnsupportedError

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}
PHI3 = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 128,
    "original_max_position_embeddings": 64,
}


def model_of(family: str, generation: dict[str, Any] | None = None, **fields: Any) -> Any:
    return SimpleNamespace(
        config=AutoConfig.for_model(family, **fields), generation_config=GenerationConfig(**(generation or {}))
    )


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (model_of("phi3", rope_parameters=LONGROPE, **PHI3), 64),
        (model_of("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), 2048),
        (model_of("llama4_text", attention_chunk_size=32, num_hidden_layers=4), 32),
    ],
    ids=["longrope", "dynamic", "chunks"],
)
def test_what_changes_with_the_length_of_a_batch_is_known_up_to_there(model: Any, limit: int) -> None:
    require_known(model, limit)
    with pytest.raises(UnsupportedError, match=str(limit)) as caught:
        require_known(model, limit + 1)
    assert caught.value.instead == "Use batching='static'."


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_forced_tokens_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        require_known(model_of("opt", {name: 7}), 64)


def test_outputs_that_are_summed_in_slices_are_refused() -> None:
    require_known(model_of("bloom", pretraining_tp=4), 64)
    with pytest.raises(UnsupportedError, match="slow_but_exact"):
        require_known(model_of("bloom", pretraining_tp=4, slow_but_exact=True), 64)


def test_unknown_kinds_of_layers_are_refused() -> None:
    model = model_of("llama")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedError, match="linear_attention"):
        require_known(model, 64)


@pytest.mark.parametrize(
    "family", ["opt", "gptj", "gpt_neox", "gpt_neo", "llama", "qwen2", "mistral", "gpt2", "gemma3_text"]
)
def test_the_others_are_not(family: str) -> None:
    require_known(model_of(family), 2048)
