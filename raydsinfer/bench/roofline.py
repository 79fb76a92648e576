"""The least time that a workload can take on a device: its roofline. Pure.

After S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009: work takes at least its bytes over the memory bandwidth, and at least its
operations over the rate of arithmetic. For requests of p prompt and n new tokens on a rank with W bytes of weights
that are read in each step, K bytes of keys and values a token, P parameters in matrices that each token passes, H in
the output head, A = layers x heads x head size, B bytes/s and R operations/s:

    steps    = max(max(n - 1), ceil(sum(n - 1) / running))    a prompt's last position gives the first new token
    decode   = max((steps W + K sum over new tokens of their position) / B,
                   sum over new tokens of (2 (P + H) + 4 A position) / R)
    prefill  = sum over prompts of (2 P p + 2 H + 2 A p^2) / R
    floor    = decode + prefill

Left out: writing keys and values, activations, all-reduce between ranks, sampling, the launch of kernels,
embeddings and norms, and the pages that a KV cache cannot fill. A beginning that all prompts share is counted once.
`floor` reads prompts and generates one after the other; an engine that does both in one step may hide one behind the
other, down to `overlapped`, the larger of all bytes / B and all operations / R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from raydsinfer.bench.workloads import Workload


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device was measured to do.

    Args:
        bytes_per_s: Bytes read plus bytes written, of a copy within its memory.
        operations_per_s: Of a large matrix product; a multiplication and an addition are two.
    """

    bytes_per_s: float
    operations_per_s: float


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a token costs on the rank that holds most.

    Args:
        weight_bytes: Read in each step.
        kv_bytes_per_token: Keys and values of all layers.
        block_parameters: In matrices that every token passes.
        head_parameters: In the one that only sampled positions pass.
        attention_width: Layers x heads x head size.
    """

    weight_bytes: float
    kv_bytes_per_token: float
    block_parameters: float
    head_parameters: float
    attention_width: float


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least time of a workload; see the module for what is counted.

    Args:
        seconds: Reading prompts, then generating.
        overlapped_s: If one could hide behind the other.
        prefill_s: Of `seconds`, reading prompts.
        decode_s: Of `seconds`, generating.
        num_decode_steps: The fewest, with so many running at once.
        step_s: One of them, on average.
    """

    seconds: float
    overlapped_s: float
    prefill_s: float
    decode_s: float
    num_decode_steps: int
    step_s: float


def model_cost(
    model_config: Any, *, num_parameters: int, parameter_bytes: int, tp_size: int, mode: str, item_size: int
) -> ModelCost:
    """What a token costs, from a model's configuration and the size of a rank's part.

    The input embedding is looked up, not read: it counts only where it is also the output head.

    Args:
        model_config: Of transformers.
        num_parameters: On the rank.
        parameter_bytes: Of them.
        tp_size: Number of ranks.
        mode: Of `LoadReport`: AutoTP gives each rank a slice of the head beside the embedding.
        item_size: Bytes of a number in activations, keys, values and the embedding.
    """
    config = model_config.get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers = config.num_hidden_layers
    embedding = config.vocab_size * (getattr(config, "word_embed_proj_dim", None) or config.hidden_size)
    own_head = not config.tie_word_embeddings or (mode == "autotp" and tp_size > 1)
    head = embedding / tp_size if own_head else embedding
    return ModelCost(
        weight_bytes=parameter_bytes - (embedding * item_size if own_head else 0),
        kv_bytes_per_token=2 * layers * math.ceil(kv_heads / tp_size) * head_size * item_size,
        block_parameters=num_parameters - embedding - (head if own_head else 0),
        head_parameters=head,
        attention_width=layers * math.ceil(heads / tp_size) * head_size,
    )


def floor_of(workload: Workload, cost: ModelCost, rates: Rates, max_running: int) -> Floor:
    """The least time of a workload with at most `max_running` requests at once."""
    prompts = [len(request.prompt) for request in workload.requests]
    later = [request.new_tokens - 1 for request in workload.requests]
    steps = max(max(later), math.ceil(sum(later) / min(max_running, len(later))))
    # Token j after the first sees p + j others: p + (p + 1) + ..., n - 1 terms.
    positions = sum(n * p + n * (n + 1) // 2 for p, n in zip(prompts, later, strict=True))
    decode_bytes = steps * cost.weight_bytes + positions * cost.kv_bytes_per_token
    decode_operations = (
        2 * (cost.block_parameters + cost.head_parameters) * sum(later) + 4 * cost.attention_width * positions
    )
    prefill_operations = _prefill_operations(prompts, workload.num_shared, cost)
    decode_s = max(decode_bytes / rates.bytes_per_s, decode_operations / rates.operations_per_s)
    prefill_s = prefill_operations / rates.operations_per_s
    overlapped_s = max(
        decode_bytes / rates.bytes_per_s, (decode_operations + prefill_operations) / rates.operations_per_s
    )
    return Floor(
        seconds=decode_s + prefill_s,
        overlapped_s=overlapped_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        num_decode_steps=steps,
        step_s=decode_s / steps if steps else 0.0,
    )


def _prefill_operations(prompts: list[int], num_shared: int, cost: ModelCost) -> float:
    def attention(length: int) -> float:
        return 2 * cost.attention_width * length**2

    tokens = num_shared + sum(length - num_shared for length in prompts)
    attended = attention(num_shared) + sum(attention(length) - attention(num_shared) for length in prompts)
    return 2 * cost.block_parameters * tokens + 2 * cost.head_parameters * len(prompts) + attended
