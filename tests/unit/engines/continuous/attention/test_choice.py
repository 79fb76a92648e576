from __future__ import annotations

from typing import Any

import pytest
import torch

from raydsinfer.config import Attention
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.attention import choice
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


def test_biases_go_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    paged, slopes = Paged([5], page_size=16), torch.ones(4)
    chosen = choose_attention(
        "auto", paged.cache, paged.tables, Agreement(RankContext()), windows=False, slopes=slopes, device="cpu"
    )
    decode, prefill = chosen.decode(None), chosen.prefill
    assert isinstance(decode, SdpaDecode)
    assert isinstance(prefill, SdpaPrefill)
    assert decode._slopes is prefill._slopes is slopes
    monkeypatch.setattr(choice, "_lacks_ampere", lambda *_: "")
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    assert "ALiBi" in choice._against_flashinfer(paged.cache, "cuda", False, True)
    assert choice._against_flex(paged.cache, "cuda", False, True) == ""
    assert isinstance(choice._prefill(paged.cache, "cuda", False, slopes), SdpaPrefill)
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(choice, "FlexDecode", lambda *args: given.append(args))
    choice._maker("flex", paged.cache, paged.tables, slopes, "cuda")(None)
    assert given[0][-1] is slopes


@pytest.mark.parametrize("wanted", ["flex", "flashinfer"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(wanted: Attention) -> None:
    paged = Paged([5], page_size=16)
    with pytest.raises(UnsupportedError, match=f"attention='{wanted}'.*its kernels are for GPUs") as caught:
        choose_attention(wanted, paged.cache, paged.tables, Agreement(RankContext()), windows=False, device="cpu")
    assert caught.value.instead == "Use attention='auto'."


class NeedsCompiler:
    """Instead of an attention whose kernels are compiled at their first use."""

    def __init__(self, *_: Any) -> None:
        pass

    def begin(self, *_: Any) -> None:
        raise RuntimeError("no nvcc here")


def test_kernels_that_do_not_compile_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paged, agreement = Paged([5], page_size=16), Agreement(RankContext())
    monkeypatch.setattr(choice, "_against_flex", lambda *_: "")
    monkeypatch.setattr(choice, "FlexDecode", NeedsCompiler)
    chosen = choose_attention("auto", paged.cache, paged.tables, agreement, windows=False, device="cpu")
    assert isinstance(chosen.decode(None), SdpaDecode)
    assert caplog.text.count("attention='flex' does not work here: ") == caplog.text.count("no nvcc here") == 1
    with pytest.raises(UnsupportedError, match=r"attention='flex'.*no nvcc here"):
        choose_attention("flex", paged.cache, paged.tables, agreement, windows=False, device="cpu")
