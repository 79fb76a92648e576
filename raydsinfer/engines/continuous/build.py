"""Puts continuous batching together for a loaded model: finds out, sizes, tries."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion, GenerateAnswer, GenerateRequest, RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.attention.choice import choose_attention
from raydsinfer.engines.continuous.batcher import Batcher, Decode
from raydsinfer.engines.continuous.bloom import slopes_of
from raydsinfer.engines.continuous.compiling import compiler_problem
from raydsinfer.engines.continuous.executor import Executor
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.fusing import fuse_linears
from raydsinfer.engines.continuous.known import require_known
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.kv_memory import reserve_cache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.plan import Limits
from raydsinfer.engines.continuous.probe import NUM_TOKENS, Recorder, largest_error, layer_shapes, trial_tokens
from raydsinfer.engines.continuous.routing import Routes
from raydsinfer.engines.continuous.sampling.sampler import Sampler
from raydsinfer.engines.continuous.scheduler import Scheduler
from raydsinfer.engines.continuous.statistics import Statistics
from raydsinfer.errors import EngineError, UnsupportedError, summary_of

logger = logging.getLogger(__name__)

_MANY_STEPS = 2**30  # a call returns when there is nothing left to do


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """A model that batches continuously.

    Args:
        batcher: The loop.
        cache: Its KV cache.
        executor: What runs its steps.
        statistics: Its counts.
    """

    batcher: Batcher
    cache: KVCache
    executor: Executor
    statistics: Statistics

    def answers(self, prompts: Sequence[Sequence[int]], generation: GenerationConfig) -> list[Completion]:
        """A completion for each prompt; all of them are in the running batch together.

        Raises:
            EngineError: One does not fit the KV cache.
        """
        requests = [
            GenerateRequest(key=key, token_ids=token_ids, generation=generation)
            for key, token_ids in enumerate(prompts)
        ]
        answers: list[GenerateAnswer] = []
        while len(answers) < len(requests):
            answers += self.batcher.advance([] if answers else requests, _MANY_STEPS).answers
        for answer in answers:
            if answer.error:
                raise EngineError(doing="generating", reason=answer.error)
        return [answer.completions[0] for answer in sorted(answers, key=lambda answer: answer.key)]

    def forget(self) -> None:
        """Start anew, as if nothing had been generated yet."""
        self.batcher.forget()
        self.statistics.reset()


def build_continuous(
    model: Any, config: EngineConfig, context: RankContext, *, eos_ids: Collection[int], decode: Decode
) -> Continuous:
    """Make a loaded model batch continuously.

    Args:
        model: A transformers model on its device, perhaps sliced over ranks. Its linear layers are fused.
        config: Inference settings.
        context: Where this rank stands; all ranks call this at once.
        eos_ids: Tokens that end a sequence.
        decode: Token ids to text, for stop strings.

    Raises:
        UnsupportedError: The model's attention cannot be led to a paged cache, or gives other text there.
        EngineError: There is not enough memory for the KV cache.
    """
    # The trial needs room, however short the sequences will be.
    config = config.model_copy(update={"max_tokens": max(config.max_tokens, NUM_TOKENS)})
    require_known(model, config.max_tokens)
    device = context.device
    vocab_size = int(model.config.get_text_config().vocab_size)
    fuse_linears(model)
    agreement, routes = Agreement(context), Routes(model)
    forward, plain = Forward(model, routes), _plain_logits(model, vocab_size, device)
    if config.torch_compile if config.torch_compile is not None else device != "cpu":
        _compile(routes, forward, agreement, vocab_size, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    num_tokens = config.max_step_tokens if device != "cpu" else len(trial_tokens(vocab_size))
    layers, windows = layer_shapes(forward, routes.num_layers, num_tokens, vocab_size, device, config.max_tokens)
    dtype = model.get_input_embeddings().weight.dtype
    cache = reserve_cache(layers, config, agreement, dtype=dtype, device=device)
    tables = PageTables(
        num_slots=config.max_running,
        pages_per_slot=-(-config.max_tokens // config.kv_page_size),
        padding_page=cache.padding_page,
        device=device,
    )
    generation = model.generation_config
    sampler = Sampler(
        num_slots=config.max_running,
        max_tokens=config.max_tokens,
        vocab_size=plain.shape[1],
        device=device,
        eos_ids=eos_ids,
        suppress=generation.suppress_tokens or (),
        begin_suppress=generation.begin_suppress_tokens or (),
    )
    statistics = Statistics()
    executor = Executor(
        forward=forward,
        cache=cache,
        tables=tables,
        sampler=sampler,
        attentions=choose_attention(
            config.attention, cache, tables, agreement, windows=windows, slopes=slopes_of(model), device=device
        ),
        max_running=config.max_running,
        max_tokens=config.max_tokens,
        device=device,
        graphs=config.cuda_graphs and device != "cpu",
        agree=None if agreement.is_alone else agreement.take_firsts,
        statistics=statistics,
    )
    _require_right(plain, executor, sampler, config, agreement)
    statistics.reset()  # those of the trial
    limits = Limits(
        max_running=config.max_running,
        max_step_tokens=max(config.max_step_tokens, config.max_running),
        num_pages=cache.num_pages,
        page_size=cache.page_size,
        max_tokens=config.max_tokens,
        min_admission=max(1, config.max_running // 8),
        share_prefixes=config.share_prefixes,
    )
    batcher = Batcher(
        scheduler=Scheduler(limits),
        executor=executor,
        sampler=sampler,
        vocab_size=vocab_size,
        eos_ids=eos_ids,
        decode=decode,
        longest_first=config.longest_first,
        statistics=statistics,
    )
    return Continuous(batcher=batcher, cache=cache, executor=executor, statistics=statistics)


def _compile(routes: Routes, forward: Forward, agreement: Agreement, vocab_size: int, device: str) -> None:
    """Compile the layers, if that works here: it takes a C compiler on each node, and a family that can be traced."""
    # First without the model: a rank that fails in the middle of it would leave the others waiting.
    problem = compiler_problem(device)
    if agreement.largest(bool(problem)):
        logger.warning("decoder layers run uncompiled, and slower: %s", problem or "another rank cannot compile")
        return
    routes.compile()
    token_ids = torch.tensor(trial_tokens(vocab_size), device=device)
    try:
        forward(token_ids, torch.arange(len(token_ids), device=device), Recorder(), compiled=True)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever the tracer or the code generator raise
        logger.warning("decoder layers run uncompiled, and slower: %s", summary_of(error))
        routes.stop_compiling()


def _plain_logits(model: Any, vocab_size: int, device: str) -> torch.Tensor:
    logits: torch.Tensor = model(
        input_ids=torch.tensor([trial_tokens(vocab_size)], device=device), use_cache=False
    ).logits[0]
    return logits


def _require_right(
    plain: torch.Tensor, executor: Executor, sampler: Sampler, config: EngineConfig, agreement: Agreement
) -> None:
    """Compare packed logits with the model's own."""
    tokens = trial_tokens(plain.shape[1])
    sampler.admit(0, tokens, len(tokens), GenerationConfig(), 0)
    error = largest_error(plain, lambda plan: executor.compute(plan)[0], config.kv_page_size)
    error = agreement.largest(error)
    if error > 1:
        raise UnsupportedError(
            what="continuous batching of this model",
            why=f"its logits over the paged cache are {error:.1f} times as far from its own as rounding explains",
            instead="Use batching='static'.",
        )
