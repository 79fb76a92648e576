"""Brings a model into a rank: found, the way to run it settled, prepared, and filled."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from raydsinfer.checkpoints.sources.fetch import local_directory
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig
from raydsinfer.engines import model as models
from raydsinfer.engines.base import EngineSpec, RankContext
from raydsinfer.engines.choice import choose_engine
from raydsinfer.engines.families import Mode, choose_mode
from raydsinfer.engines.generation import as_list, special_tokens
from raydsinfer.engines.int8.replace import linear_as_int8, replace_linears, require_float_weights
from raydsinfer.engines.int8.trial import use_kernel
from raydsinfer.engines.meter import Meter
from raydsinfer.engines.prepared import prepared_directory
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer


class Phase(Protocol):
    """Entered for each part of a load."""

    def __call__(self, name: str, /) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in a rank.

    Args:
        model: The transformers model, or what DeepSpeed made of it.
        mode: Who computes its layers.
        dtype: Of its activations.
        spec: What it was made from, ``engine="auto"`` settled.
        original: Directory of the model as it came.
        directory: Directory that the weights were read from.
        note: Why it runs in a way that was chosen and not said.
        eos_ids: Tokens that end a completion.
        pad_id: Token on the left of shorter prompts.
    """

    model: Any
    mode: Mode
    dtype: torch.dtype
    spec: EngineSpec
    original: Path
    directory: Path
    note: str = ""
    eos_ids: set[int]
    pad_id: int

    @property
    def config(self) -> EngineConfig:
        """Inference settings."""
        return self.spec.config

    @cached_property
    def tokenizer(self) -> HuggingFaceTokenizer:
        """Read at its first use: most gangs need none, their texts are made elsewhere."""
        return HuggingFaceTokenizer(str(self.directory), trust_remote_code=self.config.trust_remote_code)


class ModelLoader:
    """Loads one model; all ranks of a gang do so at once.

    Args:
        spec: Model and settings.
        context: Where this rank stands; its process group exists already.
        meter: Counts the bytes of each phase.
        phase: Entered for each part.
    """

    def __init__(self, spec: EngineSpec, context: RankContext, meter: Meter, phase: Phase) -> None:
        self._spec, self._context = spec, context
        self._meter, self._phase = meter, phase
        self._note = ""

    @property
    def _config(self) -> EngineConfig:
        return self._spec.config

    def load(self) -> LoadedModel:
        """Load it.

        Raises:
            ConfigurationError: The settings do not fit the model or the device.
            CheckpointError: The model's files are wrong.
            EngineError: DeepSpeed failed.
        """
        with self._phase("fetch"):
            original = self._fetched()
            if self._config.engine == "auto":
                self._choose_engine(original)
            directory = self._prepared(original)
        with self._phase("config"):  # most of it is the import of transformers, if that has not been yet
            model_config = models.read_config(directory, trust_remote_code=self._config.trust_remote_code)
        dtype = models.resolve_dtype(self._config.dtype, model_config, self._context.device)
        gpu_dtype = self._gpu_dtype(dtype)
        mode = choose_mode(self._config, model_config, self._context.world_size, gpu_dtype=gpu_dtype)
        if self._config.dtype == "int8":
            require_float_weights(model_config)
        if mode == "plain":
            model = self._whole(directory, model_config, dtype)
        else:
            model = self._sharded(directory, model_config, dtype, kernels=mode == "kernel_inject")
        if self._config.dtype == "int8" and self._context.device != "cpu":
            with self._phase("int8_kernel"):
                use_kernel(model, self._context)
        model.generation_config = special_tokens(model.generation_config, directory)
        eos_ids = set(as_list(model.generation_config.eos_token_id))
        pad_id = model.generation_config.pad_token_id
        return LoadedModel(
            model=model,
            mode=mode,
            dtype=dtype,
            spec=self._spec,
            original=original,
            directory=directory,
            note=self._note,
            eos_ids=eos_ids,
            pad_id=min(eos_ids, default=0) if pad_id is None else pad_id,
        )

    def _fetched(self) -> Path:
        """The model's directory on this node, brought here if it is elsewhere."""
        revision, hf_home = self._config.revision, self._config.hf_home
        self._meter.start("fetch")
        return local_directory(self._spec.model, revision=revision, hf_home=hf_home, on_progress=self._meter.reach)

    def _choose_engine(self, original: Path) -> None:
        """Settle what the settings leave open; before anything is made of the weights, which depends on it."""
        config = self._config
        model_config = models.read_config(original, trust_remote_code=config.trust_remote_code)
        choice = choose_engine(
            config,
            model_config,
            self._context.world_size,
            gpu_dtype=self._gpu_dtype(models.resolve_dtype(config.dtype, model_config, self._context.device)),
            stored_form=describe(original).form,
        )
        self._spec, self._note = replace(self._spec, config=choice.config), choice.why
        if choice.why and self._context.device != "cpu":
            # Now, and not after a copy of the weights was written that only the kernels can use.
            from raydsinfer.engines import deepspeed_setup

            deepspeed_setup.choose_accelerator(self._context)
            deepspeed_setup.build_kernels()

    def _prepared(self, original: Path) -> Path:
        """The directory to load from, which is made of the original if the settings say so."""
        self._meter.start("reshard")
        return prepared_directory(original, self._config, self._context.world_size, self._meter.reach)

    def _gpu_dtype(self, dtype: torch.dtype) -> str | None:
        return None if self._context.device == "cpu" else str(dtype).removeprefix("torch.")

    def _whole(self, directory: Path, model_config: Any, dtype: torch.dtype) -> Any:
        """The model as transformers loads it, on this rank's device."""
        device = self._context.device
        with self._phase("weights"):
            model = models.load_whole(directory, model_config, dtype, trust_remote_code=self._config.trust_remote_code)
            if self._config.dtype == "int8":
                replace_linears(model, linear_as_int8, dtype, device=device, fill=True)
            return model.to(device)

    def _sharded(self, directory: Path, model_config: Any, dtype: torch.dtype, *, kernels: bool) -> Any:
        """This rank's part of the model, as DeepSpeed makes it."""
        from raydsinfer.engines import deepspeed_setup

        deepspeed_setup.choose_accelerator(self._context)
        with self._phase("imports"):
            from raydsinfer.engines import deepspeed_sharding
        with self._phase("deepspeed"):
            deepspeed_setup.prepare(self._context, kernels=kernels)
        with self._phase("weights"):
            return deepspeed_sharding.sharded_model(
                directory, model_config, self._config, self._context, dtype=dtype, kernels=kernels, meter=self._meter
            )
