"""What an engine can do for a row, told before and after the gang has started."""

from __future__ import annotations

from typing import Any

import pytest

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import LoadReport
from raydsinfer.errors import InvalidSettingError, UnsupportedError
from raydsinfer.rows.limits import as_it_runs, changes_for, check_generation, may_batch_continuously

LOGPROBS = GenerationConfig(return_logprobs=True)


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({}, True),
        ({"kernel_inject": True}, False),
        ({"use_cache": False}, False),
        ({"engine": "echo"}, False),
        ({"batching": "static"}, False),
        ({"engine": "echo", "batching": "continuous"}, True),
    ],
)
def test_what_is_known_before_the_start(settings: dict[str, object], may: bool) -> None:
    assert may_batch_continuously(EngineConfig(**settings)) is may


@pytest.mark.parametrize(
    ("settings", "num_beams", "changes"),
    [
        ({}, 2, {"batching": "static"}),
        ({}, 1, {}),
        ({"batching": "continuous"}, 2, {}),
        ({"engine": "auto"}, 2, {"batching": "static", "engine": "deepspeed"}),
        ({"engine": "auto"}, 1, {}),
    ],
)
def test_a_gang_for_beams_alone(settings: dict[str, Any], num_beams: int, changes: dict[str, str]) -> None:
    """It keeps no cache for others, and does not take kernels, which have no beams."""
    assert changes_for(EngineConfig(**settings), GenerationConfig(num_beams=num_beams)) == changes


def test_what_auto_turned_out_to_be() -> None:
    auto = EngineConfig(engine="auto")
    with_kernels = as_it_runs(auto, LoadReport(mode="kernel_inject", batching="static"))
    with pytest.raises(UnsupportedError, match="num_beams=1, or engine='deepspeed'"):
        check_generation(GenerationConfig(num_beams=2), with_kernels)
    assert as_it_runs(auto, LoadReport(mode="autotp", batching="continuous")) == auto.replaced(
        {"batching": "continuous", "kernel_inject": False}
    )


def test_beams_need_the_engine_to_have_them() -> None:
    with pytest.raises(UnsupportedError, match="num_beams"):
        check_generation(GenerationConfig(num_beams=2), EngineConfig(kernel_inject=True))
    check_generation(GenerationConfig(num_beams=2), EngineConfig())


@pytest.mark.parametrize(
    ("batching", "num_sequences", "limit"),
    [
        ("static", 5, "max_batch_size=4"),
        ("continuous", 3, "max_running=2"),
        ("auto", 5, "max_batch_size=4"),
    ],
)
def test_sequences_must_fit_side_by_side(batching: str, num_sequences: int, limit: str) -> None:
    config = EngineConfig(batching=batching, max_batch_size=4, max_running=2)
    check_generation(GenerationConfig(num_return_sequences=num_sequences - 1, do_sample=True), config)
    with pytest.raises(InvalidSettingError, match=rf"num_return_sequences={num_sequences} .* EngineConfig\.{limit}"):
        check_generation(GenerationConfig(num_return_sequences=num_sequences, do_sample=True), config)


def test_beams_are_limited_by_the_static_batch() -> None:
    config = EngineConfig(batching="continuous", max_batch_size=4, max_running=256)
    with pytest.raises(InvalidSettingError, match=r"num_beams=5 .*max_batch_size=4"):
        check_generation(GenerationConfig(num_beams=5), config)


def test_log_probabilities_need_continuous_batching() -> None:
    check_generation(LOGPROBS, EngineConfig())
    for config in (EngineConfig(batching="static"), EngineConfig(kernel_inject=True)):
        with pytest.raises(UnsupportedError, match=rf"batching='{config.batching}'.*Use EngineConfig\(batching="):
            check_generation(LOGPROBS, config)
    with pytest.raises(UnsupportedError, match="num_beams=2"):
        check_generation(LOGPROBS.replaced({"num_beams": 2}), EngineConfig())
