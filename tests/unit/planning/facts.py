"""Nodes, GPUs and models that tests plan with."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig

from raydsinfer.checkpoints.sources.listing import Listing
from raydsinfer.config import EngineConfig
from raydsinfer.engines.model import build_meta
from raydsinfer.groups.placement import NodeResources
from raydsinfer.planning.gather import ClusterFacts
from raydsinfer.planning.gpus import Gpu
from raydsinfer.planning.model import ModelFacts, Stored, _tried_layers
from raydsinfer.planning.nodes import NodeFacts
from raydsinfer.planning.wanted import Wanted

GIB = 2**30
T4 = Gpu(name="Tesla T4", capability=(7, 5), total_bytes=15 * GIB, free_bytes=15 * GIB)
A100 = Gpu(name="NVIDIA A100-SXM4-80GB", capability=(8, 0), total_bytes=79 * GIB, free_bytes=79 * GIB)
UNKNOWN = Gpu()

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "dtype": "bfloat16",
    },
    "opt": {
        "vocab_size": 50272, "hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40,
        "num_attention_heads": 40, "word_embed_proj_dim": 5120, "max_position_embeddings": 2048,
    },
    "gpt2": {"n_embd": 768, "n_layer": 2, "n_head": 12, "n_positions": 1024},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 2048},
}  # fmt: skip


@functools.cache
def model(family: str = "llama", max_tokens: int = 1024, stored: bool = True) -> ModelFacts:
    """Llama-8B, OPT-13b and small others, without weights."""
    config = AutoConfig.for_model(family, **SHAPES[family])
    with torch.no_grad():
        built: Any = build_meta(config, torch.float16).to("meta")
        layers, problem, tried = _tried_layers(built, max_tokens)
    return ModelFacts(
        config=config,
        built=built,
        saved_as=SHAPES[family].get("dtype", "float16"),
        layers=layers,
        stored=Stored(form="safetensors", num_files=4, num_bytes=16 * 10**9) if stored else None,
        listing=Listing(files={"model.safetensors": (16 * 10**9, "id")}),
        continuous_problem=problem,
        continuous_tried=tried,
    )


def node(name: str = "a", gpus: tuple[Gpu, ...] = (A100,) * 4, free: float | None = None, **changes: Any) -> NodeFacts:
    """A large host on which all is well."""
    facts = NodeFacts(
        node_id=name,
        name=name,
        num_gpus=len(gpus),
        num_free_gpus=len(gpus) if free is None else free,
        gpus=gpus,
        available_bytes=400 * GIB,
        disk_path="/data/hf",
        disk_free_bytes=900 * GIB,
        kernels_tried=bool(gpus),
        versions={"ray": "2.60.0"},
    )
    return replace(facts, **changes)


def cluster(*nodes: NodeFacts, **changes: Any) -> ClusterFacts:
    """These nodes, as Ray would count them."""
    resources = tuple(
        NodeResources(
            address=node.name,
            node_id=node.node_id,
            total={"CPU": 64.0, "GPU": float(node.num_gpus)} if node.num_gpus else {"CPU": 64.0},
            free={"CPU": 64.0, "GPU": float(node.num_free_gpus)} if node.num_gpus else {"CPU": 64.0},
        )
        for node in nodes
    )
    return ClusterFacts(resources=resources, nodes=nodes, **changes)


def wanted(settings: dict[str, Any] | None = None, **changes: Any) -> Wanted:
    """A model called org/model."""
    return Wanted(model="org/model", config=EngineConfig(**(settings or {})), **changes)
