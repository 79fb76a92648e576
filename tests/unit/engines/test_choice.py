from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from raydsinfer.config import EngineConfig
from raydsinfer.engines.choice import choose_engine, may_take_kernels
from raydsinfer.engines.families import FAMILIES

AUTO = EngineConfig(engine="auto", max_tokens=512)


def chosen(family: str, num_ranks: int = 1, gpu_dtype: str | None = "float16", **said: Any) -> EngineConfig:
    facts = {name: said.pop(name) for name in ("stored_form", "kernels_problem") if name in said}
    shape = {"num_attention_heads": 12, "hidden_size": 768}
    config = AutoConfig.for_model(family, **shape)
    choice = choose_engine(AUTO.replaced(said), config, num_ranks, gpu_dtype=gpu_dtype, **facts)
    assert bool(choice.why) is (choice.config.kernel_inject and not said.get("kernel_inject", False))
    assert choice.config.engine == "deepspeed"
    assert choice.config.replaced({"engine": "auto", "kernel_inject": False}) == AUTO.replaced(
        {**said, "kernel_inject": False}
    ), "all else stays as it was said"
    return choice.config


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("gpu_dtype", ["float16", None])
def test_kernels_are_the_second_choice(family: str, gpu_dtype: str | None) -> None:
    assert not chosen(family, gpu_dtype=gpu_dtype).kernel_inject


@pytest.mark.parametrize(("gpu_dtype", "kernels"), [("float16", True), (None, False)])
def test_static_batches_take_the_kernels_on_gpus(gpu_dtype: str | None, kernels: bool) -> None:
    assert chosen("opt", gpu_dtype=gpu_dtype, batching="static").kernel_inject is kernels
    assert not chosen("bloom", gpu_dtype=gpu_dtype, batching="static").kernel_inject
    assert chosen("bloom", 2, gpu_dtype, batching="static").kernel_inject is kernels


@pytest.mark.parametrize("gpu_dtype", ["float16", None])
def test_kernels_where_autotp_cannot_cut_the_model(gpu_dtype: str | None) -> None:
    assert chosen("gpt2", 2, gpu_dtype).kernel_inject
    assert not chosen("qwen2", 13, gpu_dtype).kernel_inject


@pytest.mark.parametrize(
    "cannot", [{"num_ranks": 5}, {"kernels_problem": "no nvcc"}, {"batching": "continuous"}, {"use_cache": False}]
)
def test_kernels_that_cannot_be_had_either_are_what_the_refusal_speaks_of(cannot: dict[str, Any]) -> None:
    assert chosen("gpt2", **{"num_ranks": 2, **cannot}).kernel_inject


def test_weights_of_the_kernels_own_form_leave_no_choice() -> None:
    assert chosen("opt", gpu_dtype=None, stored_form="deepspeed").kernel_inject
    assert not chosen("opt", stored_form="ranks", batching="static").kernel_inject, "the slices may not fit"


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("opt", {"kernels_problem": "no nvcc"}),
        ("opt", {"dtype": "int8"}),
        ("opt", {"use_cache": False}),
        ("gptj", {"gpu_dtype": "float32"}),
        ("opt", {"ds_inference": False}),
        ("opt", {"batching": "continuous"}),
        ("qwen2", {}),
    ],
)
def test_no_kernels_where_they_cannot_be(family: str, said: dict[str, Any]) -> None:
    assert not chosen(family, **{"batching": "static", **said}).kernel_inject


def test_what_is_said_holds() -> None:
    assert chosen("opt", kernel_inject=True).kernel_inject
    config = EngineConfig(kernel_inject=False)
    opt = AutoConfig.for_model("opt")
    assert choose_engine(config, opt, 1, gpu_dtype="float16", stored_form="deepspeed").config is config


@pytest.mark.parametrize(
    ("said", "may"),
    [
        ({}, False),
        ({"kernel_inject": True}, True),
        ({"engine": "auto"}, True),
        ({"engine": "auto", "dtype": "int8"}, False),
        ({"engine": "auto", "ds_inference": False}, False),
        ({"engine": "auto", "use_cache": False}, False),
        ({"engine": "auto", "batching": "continuous"}, False),
        ({"engine": "auto", "kernel_inject": True, "batching": "continuous"}, True),
    ],
)
def test_what_is_known_without_the_model(said: dict[str, Any], may: bool) -> None:
    assert may_take_kernels(EngineConfig(**said)) is may
