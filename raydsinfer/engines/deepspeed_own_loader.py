"""DeepSpeed's own loader, to be measured against; nothing else uses it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from raydsinfer.engines import deepspeed_setup
from raydsinfer.engines import model as models
from raydsinfer.engines.base import RankContext


def load_with_deepspeed(directory: Path, context: RankContext, *, dtype: Any, kernels: bool, max_tokens: int) -> Any:
    """A model on meta tensors that `deepspeed.init_inference` fills from pickled files.

    Args:
        directory: With ``pytorch_model.bin.index.json``; each decoder layer whole in one file.
        context: Where this rank stands; DeepSpeed is prepared.
        dtype: torch dtype of the weights.
        kernels: Whether layers are replaced by DeepSpeed's fused ones.
        max_tokens: Prompt plus new tokens.

    Raises:
        EngineError: DeepSpeed failed.
    """
    import deepspeed

    model_config = models.read_config(directory)
    if kernels:
        model_config._attn_implementation = "eager"
    with torch.device("meta"):
        model = models.build(model_config, dtype)
    weight_map = json.loads((directory / "pytorch_model.bin.index.json").read_text())["weight_map"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listing:
        files = list(dict.fromkeys(weight_map.values()))
        json.dump({"type": "ds_model", "checkpoints": files, "version": 1.0}, listing)
        listing.flush()
        settings: dict[str, Any] = {"replace_with_kernel_inject": True, "max_out_tokens": max_tokens} if kernels else {}
        with deepspeed_setup.deepspeed_errors("deepspeed.init_inference(checkpoint=...)"):
            return deepspeed.init_inference(
                model,
                dtype=dtype,
                tensor_parallel={"tp_size": context.world_size},
                base_dir=str(directory),
                checkpoint=listing.name,
                **settings,
            ).module
