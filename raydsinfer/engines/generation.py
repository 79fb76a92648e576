"""Between requests and `transformers`' generate: padding, settings, and reading the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (batch, longest prompt), padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def generate_arguments(generation: GenerationConfig, pad_id: int, use_cache: bool) -> dict[str, Any]:
    """Arguments for transformers' `generate`.

    Of the model's own `generation_config.json` only token ids count, see `special_tokens`.
    """
    arguments: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens,
        "do_sample": generation.do_sample,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_return_sequences,
        "pad_token_id": pad_id,
        "use_cache": use_cache,
    }
    if generation.do_sample:
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        arguments |= {name: getattr(generation, name) for name in names}
    if generation.num_beams > 1:
        arguments |= {"length_penalty": generation.length_penalty, "early_stopping": generation.early_stopping}
    return arguments


# What a model's own generation settings may decide; the rest is the user's.
_SPECIAL_TOKENS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def special_tokens(derived: Any, directory: Path) -> Any:
    """A `transformers` generation config with the model's special tokens and nothing else.

    Sampling defaults, lengths and the like that were saved with a model must not change what was asked for.

    Args:
        derived: What transformers made of the model's configuration.
        directory: Where the model is; its ``generation_config.json`` goes first.
    """
    from transformers import GenerationConfig as HuggingFaceConfig

    sources = [derived]
    if (directory / "generation_config.json").is_file():
        sources.insert(0, HuggingFaceConfig.from_pretrained(directory))
    found = {name: [getattr(source, name, None) for source in sources] for name in _SPECIAL_TOKENS}
    make: Any = HuggingFaceConfig  # has no annotations
    return make(**{name: next((v for v in values if v is not None), None) for name, values in found.items()})


def stop_length(token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> int | None:
    """Tokens up to and with the one that completes the first stop string; None if there is none.

    Args:
        token_ids: New tokens of a row.
        decode: Token ids to text, special tokens included.
        stops: Stop strings.
    """
    return next((n for n in range(1, len(token_ids) + 1) if ends_with_stop(token_ids[:n], decode, stops)), None)


def ends_with_stop(token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> bool:
    """Whether the last of some new tokens completes a stop string. The prompt plays no part."""
    # A token is at least a byte of text, so this many hold any stop string; twice, for bytes that need neighbours.
    tail = 2 * max(len(stop.encode()) for stop in stops) + 4
    text = decode(token_ids[-tail:])
    return any(stop in text for stop in stops)


class StopStrings(StoppingCriteria):
    """Ends rows whose new text holds a stop string.

    transformers' own criterion also counts text of the prompt, so that a prompt which ends in a line
    break would be one token away from the stop string of two.

    Args:
        stops: Stop strings.
        decode: Token ids to text, special tokens included.
        prompt_length: Tokens of the padded prompts.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str], prompt_length: int) -> None:
        self._stops, self._decode, self._prompt_length = stops, decode, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """For each row of `input_ids` (batch, tokens) whether it ends."""
        rows = input_ids[:, self._prompt_length :].tolist()
        ended = [ends_with_stop(row, self._decode, self._stops) for row in rows]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


def chosen_logprobs(logits: Sequence[torch.Tensor], token_ids: torch.Tensor) -> list[list[float]]:
    """Log-probability of each new token by the model's own logits, in float32.

    Args:
        logits: Of each step (rows, vocabulary).
        token_ids: New tokens (rows, steps).
    """
    steps = [
        step.float().log_softmax(dim=-1).gather(1, token_ids[:, index : index + 1]) for index, step in enumerate(logits)
    ]
    found: list[list[float]] = torch.cat(steps, dim=1).tolist()
    return found


class CountSteps(LogitsProcessor):
    """Changes no logits: transformers calls it once a step, which nothing else of it tells.

    Args:
        on_step: Called at each step, when its forward pass was launched.
    """

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores`, (batch, vocabulary), as they are."""
        self._on_step()
        return scores


def read_completion(
    token_ids: Sequence[int], eos_ids: set[int], stopped_at: int | None = None, logprobs: Sequence[float] = ()
) -> Completion:
    """One answer from a row of `generate`'s output, without the padding behind it.

    Args:
        token_ids: New tokens of the row, padded to the longest of the batch.
        eos_ids: Tokens that end a sequence.
        stopped_at: Tokens up to the end of a stop string, if there is one.
        logprobs: Of the tokens; may be none.
    """
    eos = next((position + 1 for position, token in enumerate(token_ids) if token in eos_ids), None)
    ends = [end for end in (eos, stopped_at) if end is not None]
    size = min(ends, default=len(token_ids))
    return Completion(tuple(token_ids[:size]), "stop" if ends else "length", tuple(logprobs[:size]))


def as_list(value: int | list[int] | None) -> list[int]:
    """Special tokens, of which transformers has one, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
