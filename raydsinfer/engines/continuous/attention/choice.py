"""Which attention a device gets."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from raydsinfer.config import Attention
from raydsinfer.engines.continuous.attention.base import PrefillAttention
from raydsinfer.engines.continuous.attention.flashinfer import HEAD_SIZES, FlashInferDecode, Workspace
from raydsinfer.engines.continuous.attention.flex import FlexDecode
from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from raydsinfer.engines.continuous.attention.varlen import VarlenPrefill, varlen_function
from raydsinfer.engines.continuous.executor import Attentions
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.errors import UnsupportedError

_AMPERE = (8, 0)  # FlashAttention 2 and FlashInfer need its instructions


def choose_attention(
    wanted: Attention, cache: KVCache, tables: PageTables, *, windows: bool, device: str
) -> Attentions:
    """The attention of decode rows and prefill chunks.

    `auto` takes FlashInfer where it is installed and fits, else FlexAttention, and on CPUs and GPUs before
    Ampere `scaled_dot_product_attention`; docs/benchmarks.md has the figures that this order is made from.

    Args:
        wanted: `EngineConfig.attention`.
        cache: Keys and values.
        tables: Pages of each slot.
        windows: Whether a layer sees only part of the sequence.
        device: torch device as a string.

    Raises:
        UnsupportedError: What is wanted does not go with the model or the device.
    """
    reasons = {"flashinfer": _against_flashinfer(cache, device, windows), "flex": _against_flex(cache, device, windows)}
    if reason := reasons.get(wanted):
        raise UnsupportedError(what=f"attention={wanted!r}", why=reason, instead="Use attention='auto'.")
    chosen = wanted if wanted != "auto" else next((name for name, reason in reasons.items() if not reason), "sdpa")
    prefill = _prefill(cache, device, windows)
    if chosen == "flashinfer":
        workspace = Workspace(device)
        return Attentions(
            decode=lambda batch: FlashInferDecode(cache, tables, workspace, batch), prefill=prefill, pads=False
        )
    if chosen == "flex":
        sizes = (8, 64, len(tables.host) - 1)
        return Attentions(decode=lambda batch: FlexDecode(cache, tables, sizes), prefill=prefill, pads=False)
    return Attentions(decode=lambda batch: SdpaDecode(cache, tables), prefill=prefill, pads=True)


def _prefill(cache: KVCache, device: str, windows: bool) -> PrefillAttention:
    same_sizes = all(layer.key_size == layer.value_size <= 256 for layer in cache.layers)
    if _lacks_ampere(device, cache) or windows or not same_sizes or varlen_function() is None:
        return SdpaPrefill(cache)
    return VarlenPrefill(cache)


def _against_flashinfer(cache: KVCache, device: str, windows: bool) -> str:
    """Why FlashInfer cannot be used; empty if it can."""
    if reason := _lacks_ampere(device, cache):
        return reason
    layer = cache.layers[0]
    if find_spec("flashinfer") is None:
        return "flashinfer is not installed (pip install flashinfer-python)"
    if windows or set(cache.layers) != {layer}:
        return "it wants layers that are all alike and see the whole sequence"
    if layer.key_size != layer.value_size or layer.key_size not in HEAD_SIZES:
        return f"its kernels are made for head sizes {HEAD_SIZES}, this model has {layer.key_size}"
    return ""


def _against_flex(cache: KVCache, device: str, windows: bool) -> str:
    """Why FlexAttention cannot be used; empty if it can."""
    if reason := _lacks_ampere(device, cache):
        return reason
    layer, page_size = cache.layers[0], cache.page_size
    if windows or page_size < 16 or page_size & (page_size - 1):
        return f"it wants layers that see the whole sequence, and pages of 16, 32, 64, … tokens, not {page_size}"
    if layer.key_size < 16 or layer.key_size & (layer.key_size - 1):
        return f"its kernels are slow or missing for heads of {layer.key_size}"
    return ""


def _lacks_ampere(device: str, cache: KVCache) -> str:
    if device == "cpu":
        return "it is for GPUs"
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    if cache.keys[0].dtype not in (torch.float16, torch.bfloat16):
        return "it needs dtype float16 or bfloat16"
    return ""
