from __future__ import annotations

import pytest

from raydsinfer.config import Attention
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.attention.choice import choose_attention
from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from raydsinfer.errors import UnsupportedError
from tests.paged import Paged

WANTED: list[Attention] = ["auto", "sdpa"]


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("windows", [False, True])
def test_a_cpu_gets_sdpa(wanted: Attention, windows: bool) -> None:
    paged = Paged([5], page_size=16)
    chosen = choose_attention(
        wanted, paged.cache, paged.tables, Agreement(RankContext()), windows=windows, device="cpu"
    )
    assert isinstance(chosen.decode(None), SdpaDecode)
    assert isinstance(chosen.prefill, SdpaPrefill)
    assert chosen.pads


@pytest.mark.parametrize("wanted", ["flex", "flashinfer"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(wanted: Attention) -> None:
    paged = Paged([5], page_size=16)
    with pytest.raises(UnsupportedError, match=f"attention='{wanted}'.*its kernels are for GPUs") as caught:
        choose_attention(wanted, paged.cache, paged.tables, Agreement(RankContext()), windows=False, device="cpu")
    assert caught.value.instead == "Use attention='auto'."
