"""What DeepSpeed itself writes for its ranks, described and read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import UnsupportedError
from tests.models import write_tiny_model
from tests.ranks import run_ranks


def save(context: Any, model: Path, target: Path) -> None:
    from raydsinfer.engines import deepspeed_setup

    deepspeed_setup.choose_accelerator(context)
    deepspeed_setup.prepare(context, kernels=True)
    import deepspeed
    from transformers import AutoModelForCausalLM

    deepspeed.init_inference(
        AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager"),
        dtype=torch.float32,
        tensor_parallel={"tp_size": context.world_size},
        replace_with_kernel_inject=True,
        save_mp_checkpoint_path=str(target),
    )


def why_not(context: Any, model: Path) -> str:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    spec = EngineSpec(model=str(model), config=EngineConfig(kernel_inject=True, dtype="float32", max_tokens=64))
    with pytest.raises(UnsupportedError) as caught:
        DeepSpeedEngine(spec, context).load()
    return str(caught.value)


def test_weights_that_deepspeed_cut_are_described_and_read_but_not_loaded(tmp_path: Path) -> None:
    run_ranks(2, save, write_tiny_model("opt", tmp_path / "model", tokenizer=False), tmp_path / "cut")
    original, cut = describe(tmp_path / "model"), describe(tmp_path / "cut")
    assert (cut.form, cut.tp_size) == ("deepspeed", 2)
    layer = "model.decoder.layers.1."
    with TensorReader(original) as whole:
        stored = {name: whole.read(f"{layer}self_attn.{name}.weight") for name in ("q_proj", "k_proj", "v_proj")}
        for rank in (0, 1):
            with TensorReader(cut, rank=rank, tp_size=2) as reader:
                (fused,) = reader.parts(f"{layer}attention.attn_qkvw", WHOLE)
                own = [tensor[32 * rank : 32 * (rank + 1)] for tensor in stored.values()]  # 2 heads of 16
                assert torch.equal(fused.T, torch.cat(own))
                embeddings = "model.decoder.embed_tokens.weight"
                assert torch.equal(reader.read(embeddings), whole.read(embeddings))
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "cut")
    why = run_ranks(2, why_not, tmp_path / "cut")
    assert "cut it for 2 ranks" in why
    assert "tensors are of its fused layers (model.decoder.layers.0.norm_w, " in why
    assert why.endswith("raydsinfer reshard SRC DST --layout ranks --tp 2.")
