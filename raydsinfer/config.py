"""Settings: frozen, keyword-only, complete and strict; a wrong name is answered with the nearest right one."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raydsinfer.errors import InvalidSettingError, UnknownSettingError, UnsupportedError

Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
Attention = Literal["auto", "sdpa", "flex", "flashinfer"]
S = TypeVar("S", bound="Settings")

# Names that users bring along from elsewhere, and what to write instead.
_HINTS = {
    "use_kernel": "It is called kernel_inject here.",
    "replace_with_kernel_inject": "It is called kernel_inject here.",
    "max_out_tokens": "It is called max_tokens here.",
    "tensor_parallel": "Use ScalingConfig(num_workers=...).",
    "tp_size": "Use ScalingConfig(num_workers=...).",
    "num_gpus_per_worker_group": "Use ScalingConfig(num_workers=...).",
    "num_worker_groups": "Use BatchPredictor.predict(min_scoring_workers=..., max_scoring_workers=...).",
    "batch_size": "Use BatchPredictor.predict(batch_size=...), or max_batch_size for rows per engine call.",
    "name": "The model is the first argument of DeepSpeedCheckpoint.from_pretrained.",
    "checkpoint_path": "The model is the first argument of DeepSpeedCheckpoint.from_pretrained.",
    "max_length": "Use max_new_tokens; prompt plus new tokens are limited by EngineConfig.max_tokens.",
    "pad_token_id": "Padding is the engine's business; rows come back without it.",
    "max_num_seqs": "It is called max_running here.",
    "max_num_batched_tokens": "It is called max_step_tokens here.",
    "enable_prefix_caching": "It is called share_prefixes here.",
    "logprobs": "It is called return_logprobs here.",
    "synced_gpus": "All ranks of a gang always generate in step.",
    "streamer": "Rows are answered whole.",
}


class Settings(BaseModel):
    """Base of all settings: immutable, strict about names, types and ranges.

    Raises:
        UnknownSettingError: A name that does not exist.
        InvalidSettingError: A value of the wrong type or out of range.
        UnsupportedError: A value that is known but not available.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    def __init__(self, /, **values: Any) -> None:  # a setting of a row may well be called "self"
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _translated(error, type(self)) from None
        except TypeError:  # settings within settings are made with keyword arguments, too
            for name, value in values.items():
                if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
                    raise InvalidSettingError(name=name, value=value, expected="settings by name") from None
            raise

    def replaced(self: S, values: Mapping[str, Any]) -> S:
        """A copy with some values changed, checked like a new one."""
        return type(self)(**{**self.model_dump(exclude_unset=True), **values})


def _translated(error: ValidationError, cls: type[Settings]) -> UnknownSettingError | InvalidSettingError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = tuple(cls.model_fields)
        return UnknownSettingError(name=name, known=known, where=cls.__name__, hint=_HINTS.get(name, ""))
    expected = first["msg"].removeprefix("Input should be ")
    choices = expected.split("'")[1::2] if first["type"] == "literal_error" else []
    given = first["input"] if isinstance(first["input"], str) else ""
    near = difflib.get_close_matches(given, choices, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else ""
    return InvalidSettingError(name=name, value=first["input"], expected=expected, hint=hint)


class EchoFault(Settings):
    """Tells the echo engine to misbehave, so that users and tests can rehearse failures.

    Args:
        rank: World rank that fails; None: all of them.
        when: In `load` or in `generate`.
        prompt_contains: In `generate`: only if some prompt of the batch contains this text.
        action: ``raise`` an error, ``hang``, leave with ``exit`` code 1, ``kill`` itself, run out of memory
            (``oom``) if there are more than `oom_rows` rows at once, or be ``slow``.
        once: Path of a file that the fault makes when it strikes; it does not strike where the file is. With
            ``rank=None`` each rank has its own, with a dot and the rank behind the path.
        oom_rows: Rows that fit the memory.
        slow_s: Seconds that it sleeps if it is slow.
    """

    rank: int | None = Field(default=0, ge=0)
    when: Literal["load", "generate"] = "generate"
    prompt_contains: str = ""
    action: Literal["raise", "hang", "exit", "kill", "oom", "slow"] = "raise"
    once: str = ""
    oom_rows: int = Field(default=0, ge=0)
    slow_s: float = Field(default=1.0, ge=0)


class EngineConfig(Settings):
    """How a gang holds and runs the model; the same on every rank.

    Args:
        engine: ``deepspeed``; ``auto``, which is DeepSpeed, and turns on `kernel_inject` on GPUs for
            ``batching="static"`` (not for BLOOM on one rank), and where the model runs in no other way; or
            ``echo``: a deterministic engine without a model, for rehearsals.
        dtype: Of weights and activations. ``auto``: float32 on CPU; on GPU bfloat16 where the model
            was saved so and the GPU has it, else float16. ``int8``: the weights of decoder layers are rounded
            to 8 bits while they are loaded; activations are what ``auto`` gives.
        ds_inference: Whether DeepSpeed runs the model; if not, plain transformers on one rank.
        kernel_inject: DeepSpeed's fused kernels instead of tensor-parallel transformers layers.
        replace_method: DeepSpeed's only one left is ``auto``.
        use_meta_tensor: Build the model without memory and fill it tensor by tensor, so that no
            process holds the whole model.
        use_cache: Keep keys and values of past tokens.
        max_tokens: Prompt plus new tokens that one row may have.
        max_batch_size: Rows per engine call of static batching; larger batches are split. Kernel injection
            reserves its KV workspace for this many rows of `max_tokens` tokens.
        batching: ``continuous``: rows join and leave a running batch, over a paged KV cache; ``static``: a
            batch is generated as a whole, by transformers' `generate`; ``auto``: continuous where the model
            and the mode allow it (not with kernel injection), else static.
        max_running: Sequences that continuous batching works on at once.
        max_step_tokens: Most tokens in one forward pass of continuous batching; longer prompts are read in
            chunks.
        kv_cache_bytes: Bytes of a rank's paged KV cache; None: what `gpu_memory_utilization` leaves on a
            GPU, and on CPU room for `max_batch_size` rows of `max_tokens` tokens.
        gpu_memory_utilization: Share of a GPU's memory that weights, activations and the paged KV cache may
            take together.
        kv_page_size: Tokens of a page of the KV cache.
        share_prefixes: Compute the common beginning of prompts once, and keep it once in the KV cache.
        attention: How continuous batching attends to the paged KV cache; ``auto`` takes the fastest that the
            device has.
        cuda_graphs: Capture decode steps on GPUs as CUDA graphs.
        torch_compile: Compile decoder layers for continuous batching; None: on GPUs. It takes a C compiler on the
            node, and some seconds at the first start there; without one the layers run as they are.
        longest_first: Of rows that reach the engine together, start those first whose `max_new_tokens` is
            largest, so that no long one is left over at the end. False: in their order.
        verify: Whether the gang's first tokens are compared with plain transformers before any row: ``once`` for each
            model, engine and version, remembered on each node; ``always``; or ``off``.
        strict: End with an error if they differ, instead of going on with the next slower way to run the model that
            is right.
        golden: File to compare with, which ``raydsinfer verify --write-golden`` made; None: transformers computes.
            On the node of rank 0; absolute, or from ``~``.
        seed: Default seed for sampling; None draws a new one each call.
        revision: Branch, tag or commit of a model that comes from a hub.
        hf_home: Directory for downloaded models on each node; None means the hub library's own.
        trust_remote_code: Whether Python code in the model's directory may run.
        save_mp_checkpoint_path: Directory for each rank's own part of the weights. Made once, by
            `raydsinfer.reshard`, for as many ranks as the gang has, and loaded from: the next start reads
            no more than it keeps. With `kernel_inject` in DeepSpeed's own form, else in ours. On a disk
            that all nodes share, or on each node's own; absolute, or from ``~``.
        reshard_checkpoint_path: Directory for the weights with each decoder layer whole in one file.
            Made once, by `raydsinfer.reshard`, and loaded from. Absolute, or from ``~``.
        echo_fault: What the echo engine should do wrong.
        echo_delay_s: Seconds that the echo engine takes for a batch, or for a step if it batches continuously.
    """

    engine: Literal["auto", "deepspeed", "echo"] = "deepspeed"
    dtype: Dtype = "auto"
    ds_inference: bool = True
    kernel_inject: bool = False
    replace_method: Literal["auto"] = "auto"
    use_meta_tensor: bool = True
    use_cache: bool = True
    max_tokens: int = Field(default=1024, ge=2)
    max_batch_size: int = Field(default=32, ge=1)
    batching: Literal["auto", "continuous", "static"] = "auto"
    max_running: int = Field(default=256, ge=1)
    max_step_tokens: int = Field(default=4096, ge=1)
    kv_cache_bytes: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, lt=1)
    kv_page_size: int = Field(default=16, ge=1, le=256)
    share_prefixes: bool = True
    attention: Attention = "auto"
    cuda_graphs: bool = True
    torch_compile: bool | None = None
    longest_first: bool = True
    verify: Literal["off", "once", "always"] = "once"
    strict: bool = False
    golden: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    revision: str | None = None
    hf_home: str | None = None
    trust_remote_code: bool = False
    save_mp_checkpoint_path: str | None = None
    reshard_checkpoint_path: str | None = None
    echo_fault: EchoFault | None = None
    echo_delay_s: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _absolute(self) -> EngineConfig:
        for name in ("save_mp_checkpoint_path", "reshard_checkpoint_path", "golden"):
            path = getattr(self, name)
            if path is not None and (not path.startswith(("/", "~")) or "\0" in path):
                raise InvalidSettingError(
                    name=name,
                    value=path,
                    expected="an absolute path, or one from ~",
                    hint="It is on the nodes of the gang, whose processes run in directories of their own.",
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> EngineConfig:
        for name in ("ds_inference", "use_meta_tensor"):
            if self.save_mp_checkpoint_path is not None and not getattr(self, name):
                raise InvalidSettingError(
                    name=name,
                    value=False,
                    expected="True with save_mp_checkpoint_path",
                    hint="Parts of weights can only be loaded into parts of a model.",
                )
        if self.kernel_inject and not self.ds_inference:
            raise InvalidSettingError(
                name="kernel_inject",
                value=True,
                expected="False when ds_inference is off",
                hint="The kernels are DeepSpeed's.",
            )
        if self.kernel_inject and self.dtype == "int8":
            raise UnsupportedError(
                what="dtype='int8' with kernel_inject=True",
                why="DeepSpeed refuses int8, and its kernels for it are no longer whole",
                instead="Use kernel_inject=False, which holds weights in int8, or dtype='float16'.",
            )
        return self


class GenerationConfig(Settings):
    """How completions are generated, in Hugging Face's words; for a call, or for one row.

    Args:
        max_new_tokens: Most tokens to generate.
        min_new_tokens: Fewest tokens before an end of sequence is allowed.
        do_sample: Sample instead of taking the most likely token.
        temperature: Divides the logits before sampling.
        top_k: Sample among this many most likely tokens; 0 means all.
        top_p: Sample among the most likely tokens that hold this much probability.
        min_p: Leave out tokens less likely than this share of the most likely one.
        typical_p: Locally typical sampling's probability mass.
        repetition_penalty: Above 1 discourages tokens that were there before.
        no_repeat_ngram_size: n-grams of this size never repeat; 0 means off.
        num_beams: Beam search width; 1 means none.
        length_penalty: Exponent of the length in beam scores.
        early_stopping: Whether beam search stops at the first `num_beams` finished beams.
        num_return_sequences: Completions for each row.
        stop_strings: Texts that end a completion.
        seed: Makes sampling repeatable.
        return_full_text: Put the prompt in front of the completion.
        include_stop_str_in_output: Keep the stop string at the end of the completion.
        return_logprobs: Add the column ``logprobs``: of each new token, the natural logarithm of its
            probability by the model's own logits, before penalties, temperature and the like; continuous
            batching only.
    """

    max_new_tokens: int = Field(default=50, ge=1)
    min_new_tokens: int | None = Field(default=None, ge=0)
    do_sample: bool = False
    temperature: float = Field(default=1.0, ge=0.001, le=1000)
    top_k: int = Field(default=50, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_return_sequences: int = Field(default=1, ge=1)
    stop_strings: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    return_full_text: bool = False
    include_stop_str_in_output: bool = False
    return_logprobs: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> GenerationConfig:
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidSettingError(
                name="min_new_tokens",
                value=self.min_new_tokens,
                expected=f"at most max_new_tokens={self.max_new_tokens}",
            )
        if "" in self.stop_list:
            raise InvalidSettingError(name="stop_strings", value=self.stop_strings, expected="non-empty texts")
        most = self.num_beams if self.num_beams > 1 or not self.do_sample else self.num_return_sequences
        if self.num_return_sequences > most:
            raise InvalidSettingError(
                name="num_return_sequences",
                value=self.num_return_sequences,
                expected=f"at most num_beams={self.num_beams}, unless do_sample=True without beams",
            )
        return self

    @property
    def stop_list(self) -> list[str]:
        """Stop strings as a list, empty when there are none."""
        if self.stop_strings is None:
            return []
        return [self.stop_strings] if isinstance(self.stop_strings, str) else self.stop_strings


def _from_environment(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidSettingError(
            name=f"environment variable {name}", value=text, expected="a number of seconds above 0"
        )
    return value


class RecoveryConfig(Settings):
    """What happens when rows or gangs fail.

    Args:
        on_error: ``row``: a row that cannot be answered becomes a row with ``error`` set; ``raise``: the first
            one ends the job.
        max_error_rate: Share of rows with errors above which the job ends early, once it has enough rows to tell;
            None: never.
        max_restarts: Restarts that a gang has within `restart_window_s`. Those that found out which row kills it do
            not count.
        max_job_restarts: Restarts that all gangs of a job have together within `restart_window_s`, counted likewise.
            Those of a predictor's own process count, too.
        restart_window_s: Seconds after which a restart is forgiven: machines fail now and then, and a job that takes
            days goes on; one that does nothing but start again ends.
        restart_backoff_s: Seconds before a restart that follows a restart without any answer in between; doubled
            each time, up to a minute.
        max_row_deaths: A row that was alone on its gang when the gang died, so many times, gets an error.
    """

    on_error: Literal["row", "raise"] = "row"
    max_error_rate: float | None = Field(default=None, ge=0, lt=1)
    max_restarts: int = Field(default=8, ge=0)
    max_job_restarts: int = Field(default=64, ge=0)
    restart_window_s: float = Field(default=3600.0, gt=0)
    restart_backoff_s: float = Field(default=1.0, ge=0)
    max_row_deaths: int = Field(default=2, ge=1)


class GangConfig(Settings):
    """Deadlines of a gang; each default can be set by the environment variable named with it.

    Args:
        placement_timeout_s: Seconds to wait for free nodes and GPUs
            (``RAYDSINFER_PLACEMENT_TIMEOUT_S``, 600: an autoscaler needs minutes for a GPU node).
        start_timeout_s: Seconds for processes, rendezvous, loading the weights and comparing with transformers
            (``RAYDSINFER_START_TIMEOUT_S``, 7200: OPT-66b from a cold disk takes most of an hour, and the comparison
            reads it once more).
        call_timeout_s: Seconds for one batch, or for some steps of continuous batching
            (``RAYDSINFER_CALL_TIMEOUT_S``, 1800: a hung collective must not hold the GPUs for a night).
        first_step_timeout_s: Seconds without progress until the first token of a call, or while the gang starts
            (``RAYDSINFER_FIRST_STEP_TIMEOUT_S``, 900: kernels may be compiled, and graphs captured).
        step_timeout_s: Seconds without progress between two steps
            (``RAYDSINFER_STEP_TIMEOUT_S``, 300). Ranks whose steps are slow get more.
        heartbeat_timeout_s: Seconds that a process may be silent altogether
            (``RAYDSINFER_HEARTBEAT_TIMEOUT_S``, 60: a process that holds Python's lock in a long call is).
        lease_ttl_s: A placement group whose predictor was silent this long is given back
            (``RAYDSINFER_LEASE_TTL_S``, 10: longer than any pause of a healthy process).
    """

    placement_timeout_s: float = Field(
        default_factory=lambda: _from_environment("RAYDSINFER_PLACEMENT_TIMEOUT_S", 600), gt=0
    )
    start_timeout_s: float = Field(default_factory=lambda: _from_environment("RAYDSINFER_START_TIMEOUT_S", 7200), gt=0)
    call_timeout_s: float = Field(default_factory=lambda: _from_environment("RAYDSINFER_CALL_TIMEOUT_S", 1800), gt=0)
    first_step_timeout_s: float = Field(
        default_factory=lambda: _from_environment("RAYDSINFER_FIRST_STEP_TIMEOUT_S", 900), gt=0
    )
    step_timeout_s: float = Field(default_factory=lambda: _from_environment("RAYDSINFER_STEP_TIMEOUT_S", 300), gt=0)
    heartbeat_timeout_s: float = Field(
        default_factory=lambda: _from_environment("RAYDSINFER_HEARTBEAT_TIMEOUT_S", 60), gt=0
    )
    lease_ttl_s: float = Field(default_factory=lambda: _from_environment("RAYDSINFER_LEASE_TTL_S", 10), gt=0)
