from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from raydsinfer.config import EchoFault, EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion, EngineSpec, GenerateBatch, GenerateRequest, RankContext
from raydsinfer.engines.echo import EchoEngine
from raydsinfer.engines.echo_fault import strike
from raydsinfer.errors import EngineError

BAD = [b"good", b"a bad one"]


def test_strikes_on_its_rank_in_its_moment_and_for_its_prompt_only() -> None:
    fault = EchoFault(rank=1, prompt_contains="bad")
    strike(None, 1, "generate", BAD, 2)
    strike(fault, 0, "generate", BAD, 2)
    strike(fault, 1, "load")
    strike(fault, 1, "generate", [b"good"], 1)
    with pytest.raises(EngineError, match="told to fail on rank 1") as caught:
        strike(fault, 1, "generate", BAD, 2)
    assert not caught.value.out_of_memory


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_of_no_rank_in_particular_it_strikes_on_all(rank: int) -> None:
    with pytest.raises(EngineError, match=f"rank {rank}"):
        strike(EchoFault(rank=None), rank, "generate", BAD, 2)


def test_runs_out_of_memory_above_so_many_rows() -> None:
    fault = EchoFault(action="oom", oom_rows=2)
    strike(fault, 0, "generate", BAD, 2)
    with pytest.raises(EngineError, match="memory for 2 rows and not for 3") as caught:
        strike(fault, 0, "generate", [*BAD, b"x"], 3)
    assert caught.value.out_of_memory
    assert not caught.value.fatal


def test_strikes_once_and_again_when_the_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "struck"
    fault = EchoFault(rank=0, once=str(file))
    with pytest.raises(EngineError):
        strike(fault, 0, "generate", BAD, 2)
    assert file.exists()
    strike(fault, 0, "generate", BAD, 2)
    file.unlink()
    with pytest.raises(EngineError):
        strike(fault, 0, "generate", BAD, 2)


def test_what_does_not_strike_makes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "struck"
    strike(EchoFault(action="oom", oom_rows=5, once=str(file)), 0, "generate", BAD, 2)
    assert not file.exists()


def test_of_all_ranks_each_strikes_once(tmp_path: Path) -> None:
    fault = EchoFault(rank=None, action="oom", once=str(tmp_path / "struck"))
    for rank in (0, 1):
        with pytest.raises(EngineError):
            strike(fault, rank, "generate", BAD, 2)
        strike(fault, rank, "generate", BAD, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["struck.0", "struck.1"]


def test_a_slow_one_goes_on_afterwards() -> None:
    started = time.monotonic()
    strike(EchoFault(action="slow", slow_s=0.2), 0, "generate", BAD, 2)
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(("action", "code"), [("exit", 1), ("kill", -signal.SIGKILL)])
def test_ends_its_process(action: str, code: int) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=strike, args=(EchoFault(action=action), 0, "generate", BAD, 2))
    process.start()
    process.join()
    assert process.exitcode == code


def engine(**fault: object) -> EchoEngine:
    config = EngineConfig(engine="echo", batching="continuous", echo_fault=EchoFault(**fault))
    return EchoEngine(EngineSpec(model="none", config=config), RankContext())


def requests(first_key: int, *texts: str) -> list[GenerateRequest]:
    return [
        GenerateRequest(key=first_key + i, token_ids=text.encode(), generation=GenerationConfig())
        for i, text in enumerate(texts)
    ]


def test_memory_of_a_continuous_engine_is_what_runs() -> None:
    short = engine(action="oom", oom_rows=2)
    assert len(short.advance(requests(0, "a", "b"), num_steps=9).answers) == 2
    with pytest.raises(EngineError, match="not for 3") as caught:
        short.advance(requests(2, "c", "d", "e"), num_steps=9)
    assert caught.value.out_of_memory
    assert len(short.advance(requests(5, "f"), num_steps=9).answers) == 1


def test_the_row_that_takes_the_memory_may_have_been_there_before() -> None:
    short = engine(action="oom", oom_rows=1, prompt_contains="large")
    assert short.advance(requests(0, "large"), num_steps=1).num_running == 1
    with pytest.raises(EngineError, match="not for 2"):
        short.advance(requests(1, "small"), num_steps=1)


def test_memory_of_a_static_engine_is_the_batch() -> None:
    short = engine(action="oom", oom_rows=1)
    one = GenerateBatch(prompts=[b"a"], generation=GenerationConfig())
    assert short.generate(one) == [[Completion(tuple(b"a"), "stop")]]
    with pytest.raises(EngineError, match="not for 2"):
        short.generate(GenerateBatch(prompts=[b"a", b"b"], generation=GenerationConfig()))
