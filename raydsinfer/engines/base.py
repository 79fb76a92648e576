"""What every engine is: the work of one rank, without knowing who starts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.verification.report import VerificationReport

FinishReason = Literal["stop", "length"]
Batching = Literal["static", "continuous"]


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """Where a rank stands in its gang.

    Args:
        gang: Name of the gang, for messages.
        world_rank: This rank, 0 to `world_size` - 1.
        world_size: Number of ranks, which is the tensor parallel size.
        local_rank: Index of this rank among the gang's ranks on its node.
        local_world_size: Number of the gang's ranks on this node.
        node_rank: Index of this node among the gang's nodes.
        num_nodes: Number of nodes that the gang spans.
        device: torch device as a string: ``cpu`` or ``cuda:0`` (each process sees its one GPU).
    """

    gang: str = "gang"
    world_rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    num_nodes: int = 1
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is made from; the same on every rank.

    Args:
        model: Local directory, fsspec URL or hub name of the model.
        config: Inference settings.
    """

    model: str
    config: EngineConfig


@dataclass(frozen=True, kw_only=True)
class GenerateBatch:
    """Requests that share their generation settings; the same on every rank.

    Args:
        prompts: Token ids of each prompt, without padding; none is empty.
        generation: Settings of all of them.
        seed: Seed of this batch. The caller chooses it, so that all ranks sample alike.
    """

    prompts: Sequence[Sequence[int]]
    generation: GenerationConfig
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One generated sequence.

    Args:
        token_ids: New tokens, an end-of-sequence token included if one was generated.
        finish_reason: ``stop`` (end of sequence or a stop string) or ``length``.
        logprobs: Natural logarithm of each token's probability by the model's own logits, in float32, before
            penalties, forbidden tokens, temperature and the like; empty unless
            `GenerationConfig.return_logprobs` asked for them.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One prompt for an engine that batches continuously; the same on every rank.

    Args:
        key: The caller's number for it, unique among the requests that are not answered yet.
        token_ids: Tokens of the prompt; never empty.
        generation: Its settings.
        seed: Where its random stream starts.
    """

    key: int
    token_ids: Sequence[int]
    generation: GenerationConfig
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerateAnswer:
    """What came of one request.

    Args:
        key: The request's.
        completions: `num_return_sequences` entries; none if there is an error.
        error: Why the request cannot be answered; empty if it was.
    """

    key: int
    completions: tuple[Completion, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Advance:
    """What some steps of a continuous engine brought.

    Args:
        answers: In the order in which they were finished.
        num_running: Sequences that hold part of the KV cache.
        num_waiting: Sequences that do not yet.
        num_steps: Forward passes that were made.
    """

    answers: tuple[GenerateAnswer, ...] = ()
    num_running: int = 0
    num_waiting: int = 0
    num_steps: int = 0


@dataclass(frozen=True)
class LoadProgress:
    """How far `Engine.load` has come on one rank.

    Args:
        phase: What it is at: ``fetch``, ``reshard`` or ``weights``; empty before.
        bytes_done: Bytes of the phase that are done.
        bytes_total: Bytes of the phase; 0 while not known.
        seconds: From the start of the phase to the last byte that was counted.
    """

    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """How far an engine is with its present call. What counts is whether it changes.

    Args:
        phase: What it is at: the method, or a phase of loading; empty between two calls.
        num_calls: Calls that began, the present one included.
        num_steps: Steps of the present call that are done; a step brings a token for each row.
        num_bytes: Bytes of the present phase of loading that are done.
        slowest_step_s: Longest step so far that was not the first of its call.
    """

    phase: str = ""
    num_calls: int = 0
    num_steps: int = 0
    num_bytes: int = 0
    slowest_step_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `Engine.load` did, for progress output and benchmarks.

    Args:
        mode: ``kernel_inject``, ``autotp``, ``plain`` or ``echo``.
        num_parameters: Parameters on this rank.
        parameter_bytes: Bytes of them.
        filled: Bytes that were read slice by slice into them, and the seconds it took; nothing without
            meta tensors.
        phases_s: Phase → seconds, in order.
        batching: ``continuous`` if the engine answers `advance`, else ``static``.
        max_running: Sequences that a continuous engine works on at once.
        num_kv_tokens: Tokens that the KV cache of a continuous engine holds.
        note: Why it batches the way it does, if that is not what the settings ask for first; why it was not compared
            with transformers, if it was to be.
        verification: What a comparison with plain transformers found; None if there was none.
    """

    mode: str
    num_parameters: int = 0
    parameter_bytes: int = 0
    filled: LoadProgress = field(default_factory=LoadProgress)
    phases_s: dict[str, float] = field(default_factory=dict)
    batching: Batching = "static"
    max_running: int = 0
    num_kv_tokens: int = 0
    note: str = ""
    verification: VerificationReport | None = None


class Engine(Protocol):
    """One rank's engine. All ranks get the same calls in the same order."""

    requires_process_group: ClassVar[bool]
    """Whether the gang must set up `torch.distributed` before `load`."""

    def __init__(self, spec: EngineSpec, context: RankContext) -> None: ...

    def load(self) -> LoadReport:
        """Load the weights. Called once, on all ranks at once.

        Raises:
            ConfigurationError: The settings do not fit the model or the device.
            CheckpointError: The model's files are wrong.
            EngineError: A dependency failed.
            VerificationError: What it generates is not right.
        """
        ...

    def progress(self) -> LoadProgress:
        """How far `load` has come; called from another thread while it runs."""
        ...

    def pulse(self) -> Pulse:
        """How far the present call is; called from another thread while it runs. Never waits for that call."""
        ...

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]:
        """Answer a batch: one list a prompt, in order, with `num_return_sequences` entries.

        Raises:
            EngineError: A dependency failed.
        """
        ...

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance:
        """Take on requests, work on all that are unanswered, and return what was finished.

        Only of engines whose `LoadReport.batching` is ``continuous``. Every request is answered once.

        Args:
            requests: New ones; may be none.
            num_steps: Return after so many steps, or when nothing is left to do.

        Raises:
            EngineError: A dependency failed; requests that were not answered are lost.
        """
        ...

    def close(self) -> None:
        """Give back what `load` took; idempotent."""
        ...
