"""What the engine gets: requests that go together, or one by one, each with its seed; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import GenerateBatch, GenerateRequest
from raydsinfer.rows.limits import num_sequences
from raydsinfer.rows.request import Request

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class EngineBatch:
    """One engine call.

    Args:
        requests: Whose answers it brings, in the order of the call's prompts.
        call: What the engine gets.
    """

    requests: tuple[Request, ...]
    call: GenerateBatch


def plan_batches(
    requests: Iterable[Request], config: EngineConfig, fresh_seed: Callable[[], int], most_sequences: int | None = None
) -> list[EngineBatch]:
    """Put requests with equal settings together, at most `EngineConfig.max_batch_size` sequences a call.

    Within equal settings the longest prompts come first: neighbours need little padding, and a batch
    that does not fit the memory shows at once.

    Args:
        requests: In any order.
        config: The engine's settings.
        fresh_seed: Draws the seed of a batch that no setting seeds.
        most_sequences: Most sequences of a call, if the memory holds fewer than the settings allow.
    """
    by_settings: dict[str, list[Request]] = {}
    for request in requests:
        by_settings.setdefault(request.generation.model_dump_json(), []).append(request)
    most = config.max_batch_size if most_sequences is None else min(config.max_batch_size, most_sequences)
    batches = []
    for group in by_settings.values():
        generation = group[0].generation
        size = max(1, most // num_sequences(generation))
        ordered = sorted(group, key=lambda request: (-len(request.token_ids), request.index))
        for start in range(0, len(ordered), size):
            batches.append(_batch(ordered[start : start + size], generation, config, fresh_seed))
    return batches


def _batch(
    requests: Sequence[Request], generation: GenerationConfig, config: EngineConfig, fresh_seed: Callable[[], int]
) -> EngineBatch:
    prompts = tuple(request.token_ids for request in requests)
    call = GenerateBatch(
        prompts=prompts, generation=generation, seed=_seed(generation, config, prompts, fresh_seed=fresh_seed)
    )
    return EngineBatch(requests=tuple(requests), call=call)


def row_request(request: Request, config: EngineConfig, fresh_seed: Callable[[], int]) -> GenerateRequest:
    """What an engine that batches continuously gets for a row, under the row's index.

    Its seed is that of a batch of this prompt alone, so that it does not depend on other rows.

    Args:
        request: The row.
        config: The engine's settings.
        fresh_seed: Draws the seed of a row that no setting seeds.
    """
    seed = _seed(request.generation, config, [request.token_ids], fresh_seed=fresh_seed)
    return GenerateRequest(key=request.index, token_ids=request.token_ids, generation=request.generation, seed=seed)


def _seed(
    generation: GenerationConfig,
    config: EngineConfig,
    prompts: Sequence[Sequence[int]],
    *,
    fresh_seed: Callable[[], int],
) -> int:
    given = generation.seed if generation.seed is not None else config.seed
    return batch_seed(given if given is not None else fresh_seed(), prompts)


def batch_seed(seed: int, prompts: Iterable[Sequence[int]]) -> int:
    """The seed of one batch: the same wherever and whenever these prompts are generated with `seed`.

    Args:
        seed: What the user gave.
        prompts: Token ids, in the order of the call.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8)
    for token_ids in prompts:
        digest.update(len(token_ids).to_bytes(8, "little") + np.asarray(token_ids, dtype="<i8").tobytes())
    return int.from_bytes(digest.digest(), "little") & _MAX_SEED
