from __future__ import annotations

import threading
import time

import pytest

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateRequest, Pulse, RankContext
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.engines.steps import Steps


def test_counts_the_steps_of_each_call_anew() -> None:
    steps = Steps(clock=lambda: 5.0)
    assert steps.read() == Pulse()
    with steps.call("generate"):
        steps.count()
        steps.count()
        assert steps.read() == Pulse(phase="generate", num_calls=1, num_steps=2)
    assert steps.read() == Pulse(num_calls=1)
    with steps.call("advance"):
        assert steps.read() == Pulse(phase="advance", num_calls=2)


def test_the_slowest_step_is_kept_and_the_first_of_a_call_is_none() -> None:
    times = iter([100.0, 103.0, 104.0, 900.0, 901.0])
    steps = Steps(clock=lambda: next(times))
    with steps.call("generate"):
        for _ in range(3):
            steps.count()
    assert steps.read().slowest_step_s == 3.0
    with steps.call("generate"):
        steps.count()
        assert steps.read().slowest_step_s == 3.0
        steps.count()
    assert steps.read().slowest_step_s == 3.0


def test_phases_of_a_load_are_told_and_bytes_are_not_steps() -> None:
    steps = Steps()
    with steps.call("load"):
        steps.count()
        steps.enter("weights")
        assert steps.read() == Pulse(phase="weights", num_calls=1)


def test_a_call_that_fails_is_over() -> None:
    steps = Steps()
    with pytest.raises(ValueError, match="x"), steps.call("generate"):
        raise ValueError("x")
    assert steps.read() == Pulse(num_calls=1)


def test_an_engine_tells_another_thread_how_far_it_is() -> None:
    config = EngineConfig(engine="echo", batching="continuous", echo_delay_s=0.02)
    engine = EchoEngine(EngineSpec(model="none", config=config), RankContext())
    request = GenerateRequest(key=0, token_ids=b"x" * 20, generation=GenerationConfig())
    thread = threading.Thread(target=engine.advance, args=([request],), kwargs={"num_steps": 20})
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(engine.pulse())
        time.sleep(0.01)
    told = [pulse.num_steps for pulse in seen if pulse.phase == "advance"]
    assert told == sorted(told)
    assert len(set(told)) > 3
    assert engine.pulse().num_calls == 1
