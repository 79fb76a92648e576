"""The DeepSpeed engine: one rank of a sharded model, in one of three modes."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from raydsinfer.checkpoints.sources.fetch import local_directory
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import GenerationConfig
from raydsinfer.engines import model as models
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
from raydsinfer.engines.choice import choose_engine
from raydsinfer.engines.families import Mode, choose_mode
from raydsinfer.engines.generation import (
    CountSteps,
    StopStrings,
    as_list,
    chosen_logprobs,
    generate_arguments,
    pad_left,
    read_completion,
    special_tokens,
    stop_length,
)
from raydsinfer.engines.int8.replace import linear_as_int8, replace_linears, require_float_weights
from raydsinfer.engines.int8.trial import use_kernel
from raydsinfer.engines.kernel_workspace import rows_to_reserve
from raydsinfer.engines.meter import Meter
from raydsinfer.engines.out_of_memory import memory_shortage
from raydsinfer.engines.prepared import prepared_directory
from raydsinfer.engines.steps import Steps
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
from raydsinfer.engines.verification.ladder import rung_of
from raydsinfer.engines.verification.report import VerificationReport
from raydsinfer.errors import EngineError, RaydsinferError, UnsupportedError, summary_of

logger = logging.getLogger(__name__)

_MEMORY_HINT = "Lower max_batch_size or max_tokens, or use more ranks."
_STEP_HINT = "Lower gpu_memory_utilization or max_step_tokens, or use more ranks."


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
        self._spec, self._config, self._context = spec, spec.config, context
        self._phases_s: dict[str, float] = {}
        self._meter = Meter()
        self._steps = Steps()
        self._mode: Mode = "plain"
        self._model: Any = None
        self._tokenizer: Any = None
        self._continuous: Any = None
        self._note = ""

    def load(self) -> LoadReport:
        """See `Engine.load`."""
        with _engine_errors("loading the model"), self._steps.call("load"):
            return self._load()

    def _load(self) -> LoadReport:
        if self._context.device != "cpu":
            torch.cuda.set_device(self._context.device)
        torch.set_grad_enabled(False)
        with self._phase("fetch"):
            self._original = self._fetched()
            if self._config.engine == "auto":
                self._choose_engine()
            directory = self._prepared()
        trust = self._config.trust_remote_code
        with self._phase("config"):  # most of it is the import of transformers
            model_config = models.read_config(directory, trust_remote_code=trust)
        dtype = models.resolve_dtype(self._config.dtype, model_config, self._context.device)
        gpu_dtype = self._gpu_dtype(dtype)
        self._mode = choose_mode(self._config, model_config, self._context.world_size, gpu_dtype=gpu_dtype)
        int8 = self._config.dtype == "int8"
        if int8:
            require_float_weights(model_config)
        if self._mode == "plain":
            with self._phase("weights"):
                whole = models.load_whole(directory, model_config, dtype, trust_remote_code=trust)
                if int8:
                    replace_linears(whole, linear_as_int8, dtype, device=self._context.device, fill=True)
                self._model = whole.to(self._context.device)
        else:
            self._model = self._sharded(directory, model_config, dtype)
        if int8 and self._context.device != "cpu":
            with self._phase("int8_kernel"):
                use_kernel(self._model, self._context)
        self._read_generation_config(directory)
        if self._mode == "kernel_inject":
            with self._phase("warm_up"):
                self._reserve_workspace()
        elif self._config.batching != "static" and self._config.use_cache:
            with self._phase("continuous"):
                self._batch_continuously()
        verification = None
        if self._config.verify != "off":
            with self._phase("verify"):
                verification = self._verified(dtype)
        # A step of decoding is a thousand small Python calls: what stays for ever must not be looked through again
        # and again by the garbage collector meanwhile.
        gc.collect()
        gc.freeze()
        parameters = list(self._model.parameters())
        return LoadReport(
            mode=self._mode,
            num_parameters=sum(p.numel() for p in parameters),
            parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
            filled=self._meter.read() if self._meter.read().phase == "weights" else LoadProgress(),
            phases_s=self._phases_s,
            batching="static" if self._continuous is None else "continuous",
            max_running=0 if self._continuous is None else self._config.max_running,
            num_kv_tokens=0 if self._continuous is None else self._continuous.cache.num_tokens,
            note=self._note,
            verification=verification,
        )

    def _choose_engine(self) -> None:
        """Settle what the settings leave open; before anything is made of the weights, which depends on it."""
        config = self._config
        model_config = models.read_config(self._original, trust_remote_code=config.trust_remote_code)
        choice = choose_engine(
            config,
            model_config,
            self._context.world_size,
            gpu_dtype=self._gpu_dtype(models.resolve_dtype(config.dtype, model_config, self._context.device)),
            stored_form=describe(self._original).form,
        )
        self._config, self._note = choice.config, choice.why
        self._spec = replace(self._spec, config=self._config)

    def _gpu_dtype(self, dtype: torch.dtype) -> str | None:
        return None if self._context.device == "cpu" else str(dtype).removeprefix("torch.")

    def _batch_continuously(self) -> None:
        """Set up continuous batching, where the model allows it or the settings insist."""
        from raydsinfer.engines.continuous.build import build_continuous

        try:
            self._continuous = build_continuous(
                self._model,
                self._config,
                self._context,
                eos_ids=self._eos_ids,
                decode=lambda token_ids: str(self._loaded_tokenizer().decode_whole(token_ids)),
            )
            self._continuous.batcher.on_step = self._steps.count
        except (EngineError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # also what a model does that nobody here has seen yet
            asked_for = self._config.batching == "continuous" or self._config.attention != "auto"
            if not isinstance(error, UnsupportedError):
                why = f"its attention cannot be led to a paged KV cache ({summary_of(error)})"
                instead = "Use batching='static'."
                error = UnsupportedError(what="continuous batching of this model", why=why, instead=instead)
            if asked_for:
                raise error from None
            self._note = "; ".join(filter(None, [self._note, f"static batching: {error.why}"]))

    def _verified(self, dtype: torch.dtype) -> VerificationReport | None:
        """Compare what this engine generates with plain transformers, if there is anything to compare with."""
        from raydsinfer.engines.verification.gate import check
        from raydsinfer.engines.verification.subject import Subject

        batching = "static" if self._continuous is None else "continuous"
        subject = Subject(
            spec=self._spec,
            context=self._context,
            original=self._original,
            loaded=self._directory,
            rung=rung_of(self._mode, batching),
            dtype=dtype,
            vocab_size=int(self._model.config.get_text_config().vocab_size),
            generation_config=self._model.generation_config,
            answer=self._answers,
            on_layer=self._steps.count,
        )
        try:
            return check(subject)
        except UnsupportedError as error:
            config = self._config
            if config.verify == "always" or config.strict or config.golden is not None:  # it was asked for
                raise
            self._note = "; ".join(filter(None, [self._note, f"not compared with transformers: {error.why}"]))
            return None
        finally:
            if self._continuous is not None:
                self._continuous.forget()

    def _answers(self, prompts: Sequence[Sequence[int]], generation: GenerationConfig) -> list[Completion]:
        """Completions of some prompts, by the way that rows will take."""
        with _engine_errors("generating"):
            if self._continuous is None:
                batch = GenerateBatch(prompts=prompts, generation=generation)
                return [completions[0] for completions in self._generate(batch)]
            completions: list[Completion] = self._continuous.answers(prompts, generation)
            return completions

    def _fetched(self) -> Path:
        """The model's directory on this node, brought here if it is elsewhere."""
        revision, hf_home = self._config.revision, self._config.hf_home
        self._meter.start("fetch")
        return local_directory(self._spec.model, revision=revision, hf_home=hf_home, on_progress=self._meter.reach)

    def _prepared(self) -> Path:
        """The directory to load from, which is made of the original if the settings say so."""
        self._meter.start("reshard")
        return prepared_directory(self._original, self._config, self._context.world_size, self._meter.reach)

    def progress(self) -> LoadProgress:
        """See `Engine.progress`."""
        return self._meter.read()

    def pulse(self) -> Pulse:
        """See `Engine.pulse`."""
        return replace(self._steps.read(), num_bytes=self._meter.read().bytes_done)

    def _sharded(self, directory: Path, model_config: Any, dtype: torch.dtype) -> Any:
        from raydsinfer.engines import deepspeed_setup

        deepspeed_setup.choose_accelerator(self._context)
        with self._phase("imports"):
            from raydsinfer.engines import deepspeed_sharding
        kernels = self._mode == "kernel_inject"
        with self._phase("deepspeed"):
            deepspeed_setup.prepare(self._context, kernels=kernels)
        with self._phase("weights"):
            return deepspeed_sharding.sharded_model(
                directory, model_config, self._config, self._context, dtype=dtype, kernels=kernels, meter=self._meter
            )

    def _read_generation_config(self, directory: Path) -> None:
        generation = special_tokens(self._model.generation_config, directory)
        self._model.generation_config = generation
        self._eos_ids = set(as_list(generation.eos_token_id))
        if generation.pad_token_id is not None:
            self._pad_id = generation.pad_token_id
        else:
            self._pad_id = min(self._eos_ids, default=0)
        self._directory = directory

    def _reserve_workspace(self) -> None:
        """The kernels size their KV workspace at the first forward, for that batch: make it the largest."""
        if self._context.device != "cpu":
            torch.cuda.empty_cache()  # the kernels ask the driver for memory, not torch
        rows = rows_to_reserve(
            self._model.config,
            rows=self._config.max_batch_size,
            max_tokens=self._config.max_tokens,
            tp_size=self._context.world_size,
        )
        ids = torch.full((rows, 2), self._pad_id, device=self._context.device)
        with _engine_errors("reserving the KV workspace", _MEMORY_HINT):
            self._forward(ids, torch.ones_like(ids), max_new_tokens=1, min_new_tokens=1, do_sample=False)

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        """See `Engine.generate`."""
        generation = batch.generation
        if self._mode == "kernel_inject" and generation.num_beams > 1:
            raise UnsupportedError(
                what="num_beams > 1 with kernel injection",
                why="the kernels' KV cache cannot be reordered",
                instead="Use num_beams=1, or kernel_inject=False.",
            )
        hint = _MEMORY_HINT if self._continuous is None else _STEP_HINT  # the KV cache took most of the memory
        with _engine_errors("generating", memory_hint=hint), self._steps.call("generate"):
            return self._generate(batch)

    def _generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        generation = batch.generation
        ids, mask = (t.to(self._context.device) for t in pad_left(batch.prompts, self._pad_id))
        arguments = generate_arguments(generation, self._pad_id, self._config.use_cache)
        arguments["logits_processor"] = LogitsProcessorList([CountSteps(self._steps.count)])
        if generation.stop_list:
            criterion = StopStrings(generation.stop_list, self._loaded_tokenizer().decode_whole, ids.shape[1])
            arguments["stopping_criteria"] = StoppingCriteriaList([criterion])
        torch.manual_seed(batch.seed)
        if generation.return_logprobs:
            found = self._forward(ids, mask, return_dict_in_generate=True, output_logits=True, **arguments)
            rows = found.sequences[:, ids.shape[1] :]
            logprobs: Sequence[Sequence[float]] = chosen_logprobs(found.logits, rows)
        else:
            rows = self._forward(ids, mask, **arguments)[:, ids.shape[1] :]
            logprobs = [()] * len(rows)
        answers = [self._completion(*row, batch) for row in zip(rows.tolist(), logprobs, strict=True)]
        size = generation.num_return_sequences
        return [answers[i : i + size] for i in range(0, len(answers), size)]

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        """See `Engine.advance`."""
        if self._continuous is None:
            raise EngineError(doing="advance", reason="this engine batches statically", hint="Use generate.")
        with _engine_errors("generating", memory_hint=_STEP_HINT), self._steps.call("advance"):
            answered: Advance = self._continuous.batcher.advance(requests, num_steps)
        return answered

    def statistics(self) -> dict[str, float]:
        """Counts and seconds of continuous batching since the model was loaded; nothing with static batching."""
        return {} if self._continuous is None else self._continuous.statistics.as_dict()

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, **arguments: Any) -> Any:
        if self._mode == "kernel_inject":
            from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache

            self._model.reset_cache()
            arguments["past_key_values"] = CountingCache()
        return self._model.generate(input_ids=ids, attention_mask=mask, **arguments)

    def _completion(self, row: list[int], logprobs: Sequence[float], batch: GenerateBatch) -> Completion:
        stops = batch.generation.stop_list
        stopped_at = stop_length(row, self._loaded_tokenizer().decode_whole, stops) if stops else None
        return read_completion(row, self._eos_ids, stopped_at, logprobs)

    def _loaded_tokenizer(self) -> HuggingFaceTokenizer:
        if self._tokenizer is None:
            trust = self._config.trust_remote_code
            self._tokenizer = HuggingFaceTokenizer(str(self._directory), trust_remote_code=trust)
        return self._tokenizer  # type: ignore[no-any-return]

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = self._continuous = None
        gc.unfreeze()
        if self._context.device != "cpu":
            torch.cuda.empty_cache()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._steps.enter(name)
        started = time.perf_counter()
        yield
        self._phases_s[name] = time.perf_counter() - started


@contextmanager
def _engine_errors(doing: str, hint: str = "", *, memory_hint: str = _MEMORY_HINT) -> Iterator[None]:
    """What torch and transformers raise, as `EngineError`."""
    try:
        yield
    except RaydsinferError:
        raise
    except Exception as error:
        if shortage := memory_shortage(error):
            reason = f"{shortage} ({summary_of(error)})"
            raise EngineError(doing=doing, reason=reason, hint=memory_hint, out_of_memory=True) from error
        # After an error on the device itself nothing works in this process any more.
        fatal = isinstance(error, torch.AcceleratorError)
        raise EngineError(doing=doing, reason=f"{type(error).__name__}: {error}", hint=hint, fatal=fatal) from error
