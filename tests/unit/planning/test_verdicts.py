from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.errors import InvalidSettingError
from raydsinfer.planning.model import ModelFacts, Stored
from raydsinfer.planning.verdicts import (
    DTYPES,
    ENGINES,
    EngineVerdict,
    Place,
    best_possible,
    engine_verdicts,
    require_length,
    wanted_dtype,
    wanted_engine,
)
from tests.unit.planning.facts import A100, T4, UNKNOWN, model, node


def verdicts(facts: ModelFacts, place: Place, **settings: Any) -> dict[tuple[str, str], EngineVerdict]:
    return {(v.engine, v.dtype): v for v in engine_verdicts(facts, EngineConfig(**settings), place)}


def gpus(*kinds: Any, num_ranks: int = 1, **changes: Any) -> Place:
    return Place(num_ranks=num_ranks, use_gpu=True, nodes=(node(gpus=kinds, **changes),))


def test_opt_on_an_a100_runs_in_every_way_but_int8() -> None:
    found = verdicts(model("opt"), gpus(A100))
    assert set(found) == {(engine, dtype) for engine in ENGINES for dtype in DTYPES}
    for (_, dtype), verdict in found.items():
        if dtype != "int8":
            assert (verdict.possible, verdict.why_not) == (True, "")


def test_bfloat16_on_a_t4() -> None:
    found = verdicts(model("opt"), gpus(T4))
    for engine in ENGINES:
        verdict = found[engine, "bfloat16"]
        assert verdict.possible is False
        assert "this one has 7.5" in verdict.why_not
        assert verdict.instead == "Use dtype='float16'."
        assert found[engine, "float16"].possible is True


def test_of_different_gpus_the_one_that_cannot_is_named() -> None:
    why = verdicts(model("opt"), gpus(A100, T4))["static", "bfloat16"].why_not
    assert "(Tesla T4: 7.5)" in why


def test_a_gpu_that_nobody_tells_of_is_a_question() -> None:
    found = verdicts(model("opt"), gpus(UNKNOWN))["continuous", "bfloat16"]
    assert (found.possible, found.instead) == (None, "Name it: `raydsinfer plan --gpu NAME`.")
    nowhere = Place(num_ranks=1, use_gpu=True)
    assert verdicts(model("opt"), nowhere)["continuous", "bfloat16"].possible is None
    assert verdicts(model("opt"), Place(num_ranks=1, use_gpu=True, assumed=T4))["plain", "bfloat16"].possible is False


def test_whether_an_unknown_family_can_be_sliced_is_a_question() -> None:
    found = verdicts(model("xlm"), gpus(A100, A100, num_ranks=2))["static", "float16"]
    assert (found.possible, found.why_not) == (None, "whether DeepSpeed can slice xlm is only known when a gang starts")
    assert "--num-gpus-per-worker-group 2" in found.instead
    assert verdicts(model("xlm"), gpus(A100))["static", "float16"].possible is True
    assert verdicts(model("xlm"), gpus(T4, T4, num_ranks=2))["static", "bfloat16"].possible is False
    cut = replace(model("xlm"), stored=Stored(form="ranks", num_files=2, num_bytes=1, tp_size=2))
    assert verdicts(cut, gpus(A100, A100, num_ranks=2))["static", "float16"].possible is True


def test_kernels_that_cannot_be_built() -> None:
    broken = gpus(A100, kernels_problem="it lacks a working nvcc")
    found = verdicts(model("opt"), broken)
    assert found["kernel_inject", "float16"].possible is False
    assert "cannot be built: it lacks a working nvcc" in found["kernel_inject", "float16"].why_not
    assert found["static", "float16"].possible is True
    unseen = verdicts(model("opt"), gpus(A100, kernels_tried=False))["kernel_inject", "float16"]
    assert (unseen.possible, "doctor" in unseen.instead) == (None, True)


def test_the_node_with_the_problem_is_named() -> None:
    nodes = (node("a"), node("b", torch_problem="torch 2.13 has no kernels for compute capability 7.0"))
    why = verdicts(model("opt"), Place(num_ranks=1, use_gpu=True, nodes=nodes))["static", "float16"].why_not
    assert why.endswith("compute capability 7.0 (node b)")


def test_heads_that_do_not_divide_are_for_autotp() -> None:
    found = verdicts(model("opt"), gpus(*[A100] * 3, num_ranks=3))
    refused = found["kernel_inject", "float16"]
    assert (refused.possible, "40 heads" in refused.why_not) == (False, True)
    assert found["continuous", "float16"].possible is True
    assert found["plain", "float16"].possible is False


def test_more_ranks_than_heads_leave_nothing() -> None:
    found = verdicts(model("llama"), gpus(*[A100] * 9, num_ranks=9))
    assert {v.possible for v in found.values()} == {False}
    assert "8 key-value heads" in found["static", "float16"].why_not


def test_int8_is_what_the_settings_say_of_it() -> None:
    found = verdicts(model("opt"), gpus(A100))["kernel_inject", "int8"]
    try:
        EngineConfig(dtype="int8")  # type: ignore[arg-type]
    except Exception:
        assert found.possible is False
        assert found.why_not
    else:
        assert found.why_not or found.possible is True


def test_int8_is_for_linear_layers_in_floats() -> None:
    assert verdicts(model("opt"), gpus(A100))["static", "int8"].possible is True
    by_gpt2 = verdicts(model("gpt2"), gpus(A100))
    assert by_gpt2["static", "float16"].possible is True
    for engine in ("continuous", "static", "plain"):
        assert by_gpt2[engine, "int8"].possible is False
        assert "only linear layers are quantised, and those hold 0 of the" in by_gpt2[engine, "int8"].why_not
    config = copy.copy(model("opt").config)
    config.quantization_config = {"quant_method": "gptq"}
    found = verdicts(replace(model("opt"), config=config), gpus(A100))["static", "int8"]
    assert (found.possible, found.why_not) == (False, "its weights are quantised already (gptq)")


def test_weights_in_the_form_of_the_kernels_are_for_nothing_else() -> None:
    facts = replace(model("opt"), stored=Stored(form="deepspeed", num_files=1, num_bytes=1, tp_size=4))
    found = verdicts(facts, gpus(A100))
    assert {key for key, v in found.items() if v.possible} == {("kernel_inject", d) for d in DTYPES if d != "int8"}
    refused = found["static", "int8"]
    assert "DeepSpeed wrote the weights for 4 ranks of its fused layers" in refused.why_not
    assert refused.instead == "Use kernel_inject=True, or the original weights."


@pytest.mark.parametrize("form", ["ranks", "deepspeed"])
def test_weights_that_were_cut_are_not_for_transformers(form: str) -> None:
    facts = replace(model("opt"), stored=Stored(form=form, num_files=1, num_bytes=1, tp_size=1))
    found = verdicts(facts, gpus(A100))
    assert found["plain", "float16"].possible is False
    assert found["kernel_inject", "float16"].possible is True
    assert found["static", "float16"].possible is (form == "ranks")
    whole = verdicts(facts, gpus(A100), use_meta_tensor=False)
    assert {v.possible for v in whole.values()} == {False}
    assert whole["kernel_inject", "float16"].instead == "Use use_meta_tensor=True, or the original weights."


def test_cpu_ranks_are_tested_in_float32() -> None:
    found = verdicts(model("opt"), Place(num_ranks=2, use_gpu=False, nodes=(node(gpus=()),)))
    assert found["continuous", "float32"].possible is True
    assert found["continuous", "float16"].possible is None
    assert found["continuous", "int8"].possible is True
    assert found["kernel_inject", "float32"].possible is True


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "continuous"),
        ({"kernel_inject": True}, "kernel_inject"),
        ({"ds_inference": False}, "plain"),
        ({"batching": "static"}, "static"),
        ({"use_cache": False}, "static"),
    ],
)
def test_the_engine_that_settings_ask_for(settings: dict[str, Any], expected: str) -> None:
    assert wanted_engine(EngineConfig(**settings), model("llama"), gpus(A100)) == expected


def test_what_the_engine_auto_is_there() -> None:
    auto, opt = EngineConfig(engine="auto", max_tokens=64), model("opt", 64)
    static = auto.replaced({"batching": "static"})
    assert wanted_engine(static, opt, gpus(A100)) == "kernel_inject"
    assert wanted_engine(static, opt, gpus(A100, kernels_problem="no nvcc")) == "static"
    assert wanted_engine(static, opt, Place(num_ranks=1, use_gpu=False)) == "static"
    assert wanted_engine(static, model("bloom", 64), gpus(A100)) == "static"
    assert wanted_engine(auto, model("bloom", 64), gpus(A100)) == "continuous"
    assert wanted_engine(auto, model("gpt2"), Place(num_ranks=2, use_gpu=False)) == "kernel_inject"
    assert wanted_engine(auto, model("llama"), gpus(A100)) == "continuous"


def test_float32_kernels_that_are_wrong_on_a_gpu() -> None:
    found = verdicts(model("bloom", 64), gpus(A100), max_tokens=64)["kernel_inject", "float32"]
    assert (found.possible, found.why_not) == (False, "DeepSpeed's float32 softmax leaves out alibi")


def test_the_dtype_that_auto_means() -> None:
    auto, llama = EngineConfig(), model("llama")  # saved as bfloat16
    assert wanted_dtype(auto, llama, gpus(A100)) == "bfloat16"
    assert wanted_dtype(auto, llama, gpus(A100, T4)) == "float16"
    assert wanted_dtype(auto, llama, gpus(UNKNOWN)) == "float16"
    assert wanted_dtype(auto, model("opt"), gpus(A100)) == "float16"
    assert wanted_dtype(auto, llama, Place(num_ranks=1, use_gpu=False)) == "float32"
    assert wanted_dtype(EngineConfig(dtype="float32"), llama, gpus(A100)) == "float32"


def test_more_tokens_than_positions() -> None:
    with pytest.raises(InvalidSettingError, match=r"max_tokens=4096.*at most 2048.*--max-tokens 2048"):
        require_length(model("opt"), EngineConfig(max_tokens=4096))
    require_length(model("bloom", 64), EngineConfig(max_tokens=4096))  # no limit is known


def test_the_next_best() -> None:
    found = list(verdicts(model("opt"), gpus(T4)).values())
    best = best_possible(found, "bfloat16", use_gpu=True)
    assert best is not None
    assert (best.engine, best.dtype) == ("continuous", "float16")
    assert best_possible([v for v in found if not v.possible], "float16", use_gpu=True) is None
    static = [v for v in found if v.engine != "continuous"]
    fastest = [best_possible(static, "float16", use_gpu=use_gpu) for use_gpu in (True, False)]
    assert [verdict.engine for verdict in fastest if verdict] == ["kernel_inject", "static"]
