"""What an engine can do for a row: pure, from the settings alone."""

from __future__ import annotations

from typing import Any

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import LoadReport
from raydsinfer.engines.continuous.sampling.settings import needs_static
from raydsinfer.errors import InvalidSettingError, RowError, UnsupportedError


def may_batch_continuously(config: EngineConfig) -> bool:
    """Whether a gang with these settings batches continuously, as far as one can know before it has started."""
    if config.batching == "auto":
        return config.engine != "echo" and config.use_cache and not config.kernel_inject
    return config.batching == "continuous"


def changes_for(config: EngineConfig, generation: GenerationConfig) -> dict[str, Any]:
    """What a gang for rows with these settings should have otherwise from the start, of what its own leave open.

    Beams are generated statically also by a gang that batches continuously, but beside a KV cache that has taken
    most of the memory; where all rows want them, that cache is of no use. The kernels have no beams.
    """
    changes = {}
    if config.batching == "auto" and needs_static(generation):
        changes["batching"] = "static"
    if config.engine == "auto" and generation.num_beams > 1:
        changes["engine"] = "deepspeed"
    return changes


def as_it_runs(config: EngineConfig, report: LoadReport) -> EngineConfig:
    """The settings, with what a gang that has started turned out to do instead of "auto"."""
    kernels = config.kernel_inject or report.mode == "kernel_inject"
    return config.replaced({"batching": report.batching, "kernel_inject": kernels})


def num_sequences(generation: GenerationConfig) -> int:
    """Rows of the engine's batch that one prompt takes."""
    return max(generation.num_beams, generation.num_return_sequences)


def check_generation(generation: GenerationConfig, config: EngineConfig) -> None:
    """Check settings against what the engine can do, before anything is started.

    Args:
        generation: The settings.
        config: The engine's; those of `as_it_runs`, once the gang has started.

    Raises:
        InvalidSettingError: No row could be answered within the engine's limits.
        UnsupportedError: The engine has no such way to generate.
    """
    if generation.max_new_tokens >= config.max_tokens:
        raise InvalidSettingError(
            name="max_new_tokens",
            value=generation.max_new_tokens,
            expected=f"less than EngineConfig.max_tokens={config.max_tokens}, which counts the prompt too",
            hint="Lower the one or raise the other.",
        )
    _check_num_sequences(generation, config)
    if generation.return_logprobs:
        _check_logprobs(generation, config)
    if config.engine != "echo" and config.kernel_inject and generation.num_beams > 1:
        without = "engine='deepspeed' where the model runs so" if config.engine == "auto" else "kernel_inject=False"
        raise UnsupportedError(
            what="num_beams > 1 with kernel injection",
            why="DeepSpeed's kernels keep one sequence a row",
            instead=f"Use num_beams=1, or {without}.",
        )


def check_length(num_prompt_tokens: int, generation: GenerationConfig, config: EngineConfig) -> None:
    """Check that a row fits the engine.

    Raises:
        RowError: Prompt and new tokens together are more than `EngineConfig.max_tokens`.
    """
    total = num_prompt_tokens + generation.max_new_tokens
    if total > config.max_tokens:
        raise RowError(
            kind="length",
            reason=(
                f"{num_prompt_tokens} prompt tokens and max_new_tokens={generation.max_new_tokens} make {total}, "
                f"but EngineConfig.max_tokens is {config.max_tokens}: "
                "shorten the prompt, lower the one or raise the other"
            ),
        )


def _check_num_sequences(generation: GenerationConfig, config: EngineConfig) -> None:
    limit = "max_batch_size"
    if may_batch_continuously(config) and not needs_static(generation):
        # What "auto" turns out to be the gang says: until then the larger limit counts.
        limit = max(("max_running", "max_batch_size"), key=lambda name: int(getattr(config, name)))
        limit = "max_running" if config.batching == "continuous" else limit
    most = getattr(config, limit)
    if num_sequences(generation) > most:
        name = "num_beams" if generation.num_beams >= generation.num_return_sequences else "num_return_sequences"
        raise InvalidSettingError(
            name=name,
            value=getattr(generation, name),
            expected=f"at most EngineConfig.{limit}={most}",
            hint="Each beam and each returned sequence takes a row of the engine's batch.",
        )


def _check_logprobs(generation: GenerationConfig, config: EngineConfig) -> None:
    if not may_batch_continuously(config):
        raise UnsupportedError(
            what=f"return_logprobs=True where the engine batches statically (batching={config.batching!r})",
            why="only continuous batching keeps the probabilities of the tokens that it chose",
            instead="Use EngineConfig(batching='continuous'), which says so where it cannot be had.",
        )
    if why := needs_static(generation):
        raise UnsupportedError(
            what="return_logprobs=True with settings that need batching='static'",
            why=why,
            instead="Leave out the one or the other.",
        )
