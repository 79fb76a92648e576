"""Which attention a device gets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch

from raydsinfer.config import Attention
from raydsinfer.engines.capabilities import AMPERE
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.attention.base import DecodeAttention, PrefillAttention
from raydsinfer.engines.continuous.attention.flashinfer import HEAD_SIZES, FlashInferDecode, Workspace
from raydsinfer.engines.continuous.attention.flex import FlexDecode
from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from raydsinfer.engines.continuous.attention.varlen import VarlenPrefill, varlen_function
from raydsinfer.engines.continuous.executor import Attentions
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.step_inputs import decode_array, rows_of
from raydsinfer.errors import UnsupportedError, summary_of

logger = logging.getLogger(__name__)


def choose_attention(
    wanted: Attention,
    cache: KVCache,
    tables: PageTables,
    agreement: Agreement,
    *,
    windows: bool,
    slopes: torch.Tensor | None = None,
    device: str,
) -> Attentions:
    """The attention of decode rows and prefill chunks; the same kind on all ranks.

    `auto` takes FlashInfer where it is installed and fits, else FlexAttention, and on CPUs and GPUs before
    Ampere `scaled_dot_product_attention`; docs/benchmarks.md has the figures that this order is made from. Kernels
    that are compiled are tried out, and the next kind is taken where that fails.

    Args:
        wanted: `EngineConfig.attention`.
        cache: Keys and values.
        tables: Pages of each slot.
        agreement: With the other ranks.
        windows: Whether a layer sees only part of the sequence.
        slopes: See `bloom.slopes_of`.
        device: torch device as a string.

    Raises:
        UnsupportedError: What is wanted does not go with the model or the device.
    """
    prefill = _prefill(cache, device, windows, slopes)
    kinds = {"flashinfer": _against_flashinfer, "flex": _against_flex}
    for name, against in kinds.items():
        if wanted not in ("auto", name):
            continue
        problem = against(cache, device, windows, slopes is not None)
        fits = not problem
        attentions = Attentions(decode=_maker(name, cache, tables, slopes, device), prefill=prefill, pads=False)
        problem = problem or _problem_of(attentions, cache, tables, device)
        if not agreement.largest(bool(problem)):
            return attentions
        problem = problem or "another rank of the gang cannot use it"
        if wanted == name:
            raise UnsupportedError(what=f"attention={wanted!r}", why=problem, instead="Use attention='auto'.")
        if fits:
            logger.warning("attention=%r does not work here: %s", name, problem)
    return Attentions(decode=lambda batch: SdpaDecode(cache, tables, slopes), prefill=prefill, pads=True)


def _maker(
    name: str, cache: KVCache, tables: PageTables, slopes: torch.Tensor | None, device: str
) -> Callable[[int | None], DecodeAttention]:
    if name == "flex":
        sizes = (8, 64, len(tables.host) - 1)
        return lambda batch: FlexDecode(cache, tables, sizes, slopes)
    workspaces: list[Workspace] = []

    def flashinfer(batch: int | None) -> DecodeAttention:
        if not workspaces:
            workspaces.append(Workspace(device))
        return FlashInferDecode(cache, tables, workspaces[0], batch)

    return flashinfer


def _problem_of(attentions: Attentions, cache: KVCache, tables: PageTables, device: str) -> str:
    """What goes wrong with two rows of padding, which compiles the kernels; empty if nothing does."""
    layer, array = cache.layers[0], decode_array((), tables, cache.page_size, 2)
    try:
        rows, decode = rows_of(array, upload(array, device), 0), attentions.decode(None)
        query = torch.zeros(2, layer.num_query_heads, layer.key_size, dtype=cache.keys[0].dtype, device=device)
        decode.begin(rows, 1)
        decode.attend(0, query, rows=rows, longest=1, scale=1.0, window=None)
        torch.cuda.synchronize()
    except torch.AcceleratorError:
        raise  # nothing works in this process any more
    except Exception as error:  # no compiler, another version, …
        return summary_of(error)
    return ""


def _prefill(cache: KVCache, device: str, windows: bool, slopes: torch.Tensor | None) -> PrefillAttention:
    same_sizes = all(layer.key_size == layer.value_size <= 256 for layer in cache.layers)
    if _lacks_ampere(device, cache) or windows or slopes is not None or not same_sizes or varlen_function() is None:
        return SdpaPrefill(cache, slopes)
    return VarlenPrefill(cache)


def _against_flashinfer(cache: KVCache, device: str, windows: bool, biases: bool) -> str:
    """Why FlashInfer cannot be used; empty if it can."""
    if reason := _lacks_ampere(device, cache):
        return reason
    layer = cache.layers[0]
    if find_spec("flashinfer") is None:
        return "FlashInfer is not installed (pip install raydsinfer[flashinfer])"
    if biases:
        return "linear biases (ALiBi) are not led to it: it knows only those of a model that is whole"
    if windows or set(cache.layers) != {layer}:
        return "it wants layers that are all alike and see the whole sequence"
    if layer.key_size != layer.value_size or layer.key_size not in HEAD_SIZES:
        return f"its kernels are made for head sizes {HEAD_SIZES}, this model has {layer.key_size}"
    return ""


def _against_flex(cache: KVCache, device: str, windows: bool, biases: bool) -> str:
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
        return "its kernels are for GPUs"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    if cache.keys[0].dtype not in (torch.float16, torch.bfloat16):
        return "it needs dtype float16 or bfloat16"
    return ""
