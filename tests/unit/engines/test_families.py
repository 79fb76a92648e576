from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from raydsinfer.config import EngineConfig
from raydsinfer.engines.families import choose_mode
from raydsinfer.errors import InvalidSettingError, UnsupportedError


def model(family: str, **fields: Any) -> Any:
    return AutoConfig.for_model(family, **{"num_attention_heads": 12, "hidden_size": 768, **fields})


@pytest.mark.parametrize(
    ("settings", "world_size", "mode"),
    [
        ({}, 1, "autotp"),
        ({}, 3, "autotp"),
        ({"kernel_inject": True}, 4, "kernel_inject"),
        ({"ds_inference": False}, 1, "plain"),
    ],
)
def test_modes(settings: dict[str, Any], world_size: int, mode: str) -> None:
    assert choose_mode(EngineConfig(**settings), model("opt"), world_size) == mode


@pytest.mark.parametrize(
    ("family", "fields", "settings", "world_size", "says"),
    [
        ("qwen2", {}, {"kernel_inject": True}, 1, "kernel_inject=True for qwen2.*adapters exist for: opt"),
        ("falcon", {}, {"kernel_inject": True}, 2, "if DeepSpeed cannot slice this model either, num_workers=1"),
        ("opt", {}, {"kernel_inject": True}, 5, "12 heads to divide by 5 ranks"),
        ("opt", {}, {"kernel_inject": True}, 5, r"automatic tensor parallelism.*num_workers: 1, 2, 3, 4, 6, 12\."),
        ("gpt2", {}, {"kernel_inject": True}, 5, "Use kernel_inject=False and num_workers=1"),
        ("opt", {"do_layer_norm_before": False}, {"kernel_inject": True}, 1, "post-norm"),
        ("opt", {"word_embed_proj_dim": 512}, {"kernel_inject": True}, 1, "embedding projections"),
        ("opt", {}, {"kernel_inject": True, "use_cache": False}, 1, "always keep the KV cache"),
        ("bloom", {}, {"kernel_inject": True, "max_tokens": 8193}, 1, "holds 8192 tokens"),
        ("gpt2", {"hidden_size": 12288, "num_attention_heads": 96}, {"kernel_inject": True}, 1, "8192 of 12288"),
        ("llama", {"intermediate_size": 2056}, {"kernel_inject": True}, 2, "2 ranks share 2056 of the MLP"),
        ("gpt2", {}, {}, 2, "gpt2 on 2 ranks"),
        ("llama", {"num_key_value_heads": 3}, {}, 4, "3 key-value heads"),
        ("opt", {}, {"ds_inference": False}, 2, "does not shard"),
        ("opt", {}, {"batching": "continuous", "kernel_inject": True}, 1, "a KV cache of their own"),
        ("opt", {}, {"batching": "continuous", "use_cache": False}, 1, "it lives from the KV cache"),
    ],
)
def test_refusals_name_the_family_the_reason_and_the_way_out(
    family: str, fields: dict[str, Any], settings: dict[str, Any], world_size: int, says: str
) -> None:
    with pytest.raises(UnsupportedError, match=says) as caught:
        choose_mode(EngineConfig(**settings), model(family, **fields), world_size)
    assert caught.value.instead


@pytest.mark.parametrize(
    ("family", "fields", "refused"),
    [
        ("bloom", {}, "leaves out alibi"),
        ("gptj", {}, "rotates positions wrongly"),
        ("llama", {"num_attention_heads": 3}, "cannot rotate 256 of 256 elements of 4 bytes"),
        ("gpt_neox", {"num_attention_heads": 3, "rotary_pct": 1.0, "intermediate_size": 3072}, "256 of 256 elements"),
        ("opt", {}, ""),
    ],
)
def test_what_only_compiled_kernels_cannot_do(family: str, fields: dict[str, Any], refused: str) -> None:
    config, found = EngineConfig(kernel_inject=True), model(family, **fields)
    for gpu_dtype in (None, "float16", "bfloat16", *([] if refused else ["float32"])):
        assert choose_mode(config, found, 1, gpu_dtype=gpu_dtype) == "kernel_inject"
    if refused:
        with pytest.raises(UnsupportedError, match=f"in float32 on a GPU.*{refused}.*float16.*kernel_inject=False"):
            choose_mode(config, found, 1, gpu_dtype="float32")


def test_more_tokens_than_positions() -> None:
    with pytest.raises(InvalidSettingError, match=r"max_tokens=4096.*at most 2048"):
        choose_mode(EngineConfig(max_tokens=4096), model("opt"), 1)
