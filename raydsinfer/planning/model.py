"""A model as far as it can be known without its weights: its small files, and their headers where they are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from raydsinfer.checkpoints.sources.fetch import local_directory, local_path
from raydsinfer.checkpoints.sources.listing import Listing, list_files
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.known import require_known
from raydsinfer.engines.continuous.kv_cache import LayerShape
from raydsinfer.engines.continuous.probe import NUM_TOKENS, layer_shapes
from raydsinfer.engines.continuous.routing import Routes
from raydsinfer.engines.model import build_meta, read_config
from raydsinfer.errors import CheckpointError, UnsupportedError
from raydsinfer.planning.shares import kv_heads, parameters_by_rank, quantised_by_rank


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Weights as they are stored.

    Args:
        form: ``safetensors``, ``bin``, ``ranks`` or ``deepspeed``; by the names of the files where they are elsewhere.
        num_files: That hold weights.
        num_bytes: Of these.
        tp_size: Ranks that they were cut for; None for any, or where it is not known.
        checked: Whether the headers were read, which they are in a local directory only.
    """

    form: str
    num_files: int
    num_bytes: int
    tp_size: int | None = None
    checked: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model.

    Args:
        config: Its `transformers` configuration.
        built: Its modules, whose parameters take no memory.
        saved_as: Dtype that the configuration names; empty if none.
        layers: Keys and values of a token in each layer, of all heads.
        stored: Its weights; None if they cannot be read, or the hub could not be asked.
        stored_problem: Why they cannot be read; empty if they can, or are elsewhere.
        listing: Its files.
        continuous_problem: Why its rows cannot join and leave a running batch; empty if nothing is known against it.
        continuous_tried: Whether its attention was led to a cache here, without weights.
    """

    config: Any
    built: Any = field(repr=False, compare=False)
    saved_as: str = ""
    layers: tuple[LayerShape, ...]
    stored: Stored | None = None
    stored_problem: str = ""
    listing: Listing
    continuous_problem: str = ""
    continuous_tried: bool = True

    @property
    def family(self) -> str:
        """`model_type` of config.json."""
        return str(self.config.model_type)

    @property
    def positions(self) -> int | None:
        """Longest sequence that the model has positions for; None without such a limit."""
        found: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return found

    @property
    def num_kv_heads(self) -> int:
        """By which attention is cut: no gang has more ranks."""
        return kv_heads(self.config)

    @cached_property
    def num_parameters(self) -> int:
        """Of the whole model; tied ones once."""
        return sum(p.numel() for p in self.built.parameters())

    def num_on_rank(self, mode: str, num_ranks: int) -> int:
        """Parameters on the rank that holds most, see `parameters_by_rank`."""
        return max(parameters_by_rank(self.built, mode, num_ranks))

    def num_quantised_on_rank(self, mode: str, num_ranks: int) -> int:
        """How many of these parameters int8 quantises, see `quantised_by_rank`."""
        held = parameters_by_rank(self.built, mode, num_ranks)
        return quantised_by_rank(self.built, mode, num_ranks)[held.index(max(held))]

    def layers_on_rank(self, num_ranks: int) -> list[LayerShape]:
        """`layers` on the rank that holds most heads."""
        return [
            LayerShape(
                num_heads=-(-layer.num_heads // num_ranks),
                num_query_heads=-(-layer.num_query_heads // num_ranks),
                key_size=layer.key_size,
                value_size=layer.value_size,
            )
            for layer in self.layers
        ]


def read_model(model: str, config: EngineConfig) -> ModelFacts:
    """Look at a model. Of what is elsewhere only the small files are fetched.

    Args:
        model: Directory, URL or hub name.
        config: Inference settings: revision, cache, and whether its code may run.

    Raises:
        CheckpointError: There is no such model, or its configuration is of no use.
    """
    from transformers import GenerationConfig

    trust = config.trust_remote_code
    directory = local_directory(model, revision=config.revision, hf_home=config.hf_home, weights=False)
    model_config = read_config(directory, trust_remote_code=trust)
    saved_as = str(getattr(model_config, "dtype", None) or "").removeprefix("torch.")  # building changes it
    listing = list_files(model, revision=config.revision, hf_home=config.hf_home)
    with torch.no_grad():
        built: Any = build_meta(model_config, torch.float16, trust_remote_code=trust).to("meta")
        if (directory / "generation_config.json").is_file():
            built.generation_config = GenerationConfig.from_pretrained(directory)
        layers, problem, tried = _tried_layers(built, config.max_tokens)
    stored, stored_problem = _stored(local_path(model), listing)
    return ModelFacts(
        config=model_config,
        built=built,
        saved_as=saved_as,
        layers=layers,
        stored=stored,
        stored_problem=stored_problem,
        listing=listing,
        continuous_problem=problem,
        continuous_tried=tried,
    )


def _stored(directory: Path | None, listing: Listing) -> tuple[Stored | None, str]:
    if directory is not None:
        try:
            found = describe(directory)
        except CheckpointError as error:  # all else can be planned all the same
            return None, f"{error.path}: {error.reason}"
        here = Stored(
            form=found.form,
            num_files=len(found.files),
            num_bytes=sum(found.files.values()),
            tp_size=found.tp_size,
            checked=True,
        )
        return here, ""
    weights = listing.weights
    if not weights:
        return None, ""
    form = "safetensors" if all(name.endswith(".safetensors") for name in weights) else "bin"
    return Stored(form=form, num_files=len(weights), num_bytes=sum(weights.values())), ""


def _tried_layers(built: Any, max_tokens: int) -> tuple[tuple[LayerShape, ...], str, bool]:
    """Keys and values as the paged cache would see them, in a trial whose tensors have no values.

    What the gang tries at its start with values, and more: whether the outcome is right.
    """
    vocab_size = int(built.config.get_text_config().vocab_size)
    try:
        require_known(built, max_tokens)
        routes = Routes(built)
        shapes, _ = layer_shapes(Forward(built, routes), routes.num_layers, NUM_TOKENS, vocab_size, "meta", max_tokens)
    except UnsupportedError as error:
        return tuple(_layers_by_config(built.config)), error.why, True
    except Exception:  # a model that looks at its tensors' values: only a trial with weights will tell
        return tuple(_layers_by_config(built.config)), "", False
    return tuple(shapes), "", True


def _layers_by_config(model_config: Any) -> Sequence[LayerShape]:
    config = model_config.get_text_config()
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    layer = LayerShape(num_heads=kv_heads(config), num_query_heads=heads, key_size=size, value_size=size)
    return [layer] * int(config.num_hidden_layers)
