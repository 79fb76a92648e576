"""The DeepSpeed engine: one rank of a sharded model, in one of three modes."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import (
    Advance,
    Completion,
    EngineSpec,
    GenerateBatch,
    GenerateRequest,
    LoadProgress,
    LoadReport,
    Pulse,
    RankContext,
)
from raydsinfer.engines.engine_errors import MEMORY_HINT, STEP_HINT, engine_errors
from raydsinfer.engines.meter import Meter
from raydsinfer.engines.model_loader import LoadedModel, ModelLoader
from raydsinfer.engines.static_generator import StaticGenerator
from raydsinfer.engines.steps import Phases, Steps
from raydsinfer.engines.verification.ladder import rung_of
from raydsinfer.engines.verification.report import VerificationReport
from raydsinfer.errors import EngineError, UnsupportedError, summary_of


class DeepSpeedEngine:
    """Holds this rank's part of the model and generates in step with the other ranks.

    Modes: *kernel_inject* (DeepSpeed's fused layers), *autotp* (transformers' layers, their linear
    parts sliced over the ranks) and *plain* (`ds_inference=False`: transformers alone, one rank).
    One engine a process: DeepSpeed keeps state in its modules.

    Args:
        spec: Model and settings.
        context: Where this rank stands; its process group exists already.
    """

    requires_process_group: ClassVar[bool] = True

    def __init__(self, spec: EngineSpec, context: RankContext) -> None:
        self._context = context
        self._meter, self._steps = Meter(), Steps()
        self._phases = Phases(self._steps)
        self._loader = ModelLoader(spec, context, self._meter, self._phases)
        self._loaded: LoadedModel | None = None
        self._static: StaticGenerator | None = None
        self._continuous: Any = None
        self._notes: list[str] = []

    @property
    def model(self) -> Any:
        """This rank's part of the model, once it is loaded; for measurements."""
        return self._ready.model

    def load(self) -> LoadReport:
        """See `Engine.load`."""
        with engine_errors("loading the model"), self._steps.call("load"):
            return self._load()

    def _load(self) -> LoadReport:
        if self._context.device != "cpu":
            torch.cuda.set_device(self._context.device)
        torch.set_grad_enabled(False)
        loaded = self._loaded = self._loader.load()
        config = loaded.config
        self._notes.append(loaded.note)
        self._static = StaticGenerator(loaded, self._context, self._steps)
        if loaded.mode == "kernel_inject":
            with self._phases("warm_up"):
                self._static.reserve_workspace()
        elif config.batching != "static" and config.use_cache:
            with self._phases("continuous"):
                self._batch_continuously(config)
        verification = None
        if config.verify != "off":
            with self._phases("verify"):
                verification = self._verified(loaded)
        # A step of decoding is a thousand small Python calls: what stays for ever must not be looked through again
        # and again by the garbage collector meanwhile.
        gc.collect()
        gc.freeze()
        return self._report(loaded, verification)

    def _report(self, loaded: LoadedModel, verification: VerificationReport | None) -> LoadReport:
        parameters = list(loaded.model.parameters())
        return LoadReport(
            mode=loaded.mode,
            num_parameters=sum(p.numel() for p in parameters),
            parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
            filled=self._meter.read() if self._meter.read().phase == "weights" else LoadProgress(),
            phases_s=self._phases.seconds,
            batching="static" if self._continuous is None else "continuous",
            max_running=0 if self._continuous is None else loaded.config.max_running,
            num_kv_tokens=0 if self._continuous is None else self._continuous.cache.num_tokens,
            note="; ".join(filter(None, self._notes)),
            verification=verification,
        )

    def _batch_continuously(self, config: EngineConfig) -> None:
        """Set up continuous batching, where the model allows it or the settings insist."""
        from raydsinfer.engines.continuous.build import build_continuous

        loaded = self._ready
        try:
            self._continuous = build_continuous(
                loaded.model,
                config,
                self._context,
                eos_ids=loaded.eos_ids,
                decode=lambda token_ids: str(loaded.tokenizer.decode_whole(token_ids)),
            )
            self._continuous.batcher.on_step = self._steps.count
        except (EngineError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # also what a model does that nobody here has seen yet
            if not isinstance(error, UnsupportedError):
                why = f"its attention cannot be led to a paged KV cache ({summary_of(error)})"
                instead = "Use batching='static'."
                error = UnsupportedError(what="continuous batching of this model", why=why, instead=instead)
            if config.batching == "continuous" or config.attention != "auto":  # it was asked for
                raise error from None
            self._notes.append(f"static batching: {error.why}")

    def _verified(self, loaded: LoadedModel) -> VerificationReport | None:
        """Compare what this engine generates with plain transformers, if there is anything to compare with."""
        from raydsinfer.engines.verification.gate import check
        from raydsinfer.engines.verification.subject import Subject

        batching = "static" if self._continuous is None else "continuous"
        subject = Subject(
            spec=loaded.spec,
            context=self._context,
            original=loaded.original,
            loaded=loaded.directory,
            rung=rung_of(loaded.mode, batching),
            dtype=loaded.dtype,
            vocab_size=int(loaded.model.config.get_text_config().vocab_size),
            generation_config=loaded.model.generation_config,
            answer=self._answers,
            on_layer=self._steps.count,
        )
        try:
            return check(subject)
        except UnsupportedError as error:
            config = loaded.config
            if config.verify == "always" or config.strict or config.golden is not None:  # it was asked for
                raise
            self._notes.append(f"not compared with transformers: {error.why}")
            return None
        finally:
            if self._continuous is not None:
                self._continuous.forget()

    def _answers(self, prompts: Sequence[Sequence[int]], generation: GenerationConfig) -> list[Completion]:
        """Completions of some prompts, by the way that rows will take."""
        with engine_errors("generating"):
            if self._continuous is None:
                batch = GenerateBatch(prompts=prompts, generation=generation)
                return [completions[0] for completions in self._generator.generate(batch)]
            completions: list[Completion] = self._continuous.answers(prompts, generation)
            return completions

    @property
    def _ready(self) -> LoadedModel:
        assert self._loaded is not None, "not loaded"  # noqa: S101
        return self._loaded

    @property
    def _generator(self) -> StaticGenerator:
        assert self._static is not None, "not loaded"  # noqa: S101
        return self._static

    def progress(self) -> LoadProgress:
        """See `Engine.progress`."""
        return self._meter.read()

    def pulse(self) -> Pulse:
        """See `Engine.pulse`."""
        return replace(self._steps.read(), num_bytes=self._meter.read().bytes_done)

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        """See `Engine.generate`."""
        hint = MEMORY_HINT if self._continuous is None else STEP_HINT  # the KV cache took most of the memory
        with engine_errors("generating", memory_hint=hint), self._steps.call("generate"):
            return self._generator.generate(batch)

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        """See `Engine.advance`."""
        if self._continuous is None:
            raise EngineError(doing="advance", reason="this engine batches statically", hint="Use generate.")
        with engine_errors("generating", memory_hint=STEP_HINT), self._steps.call("advance"):
            answered: Advance = self._continuous.batcher.advance(requests, num_steps)
        return answered

    def statistics(self) -> dict[str, float]:
        """Counts and seconds of continuous batching since the model was loaded; nothing with static batching."""
        return {} if self._continuous is None else self._continuous.statistics.as_dict()

    def close(self) -> None:
        """See `Engine.close`."""
        self._loaded = self._static = self._continuous = None
        gc.unfreeze()
        if self._context.device != "cpu":
            torch.cuda.empty_cache()
