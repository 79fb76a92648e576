"""When the gangs of a lazy data set go back."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import ray

from raydsinfer.scoring.executions import RunningExecutions, watch_executions


class Keeper:
    """Stands in for the actor's handle; writes down the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        keeper = self

        class Method:
            def remote(self) -> None:
                keeper.calls.append(name)

        return Method()


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Keeper:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    return Keeper()


def test_only_the_last_execution_gives_gangs_back(keeper: Keeper) -> None:
    running = RunningExecutions(keeper)  # type: ignore[arg-type]
    running.started()
    running.started()
    running.ended()
    assert keeper.calls == ["begin"]
    running.ended()
    assert keeper.calls == ["begin", "end", "drain"]
    running.started()
    running.ended()
    assert keeper.calls == ["begin", "end", "drain", "begin", "end", "drain"]


def test_after_ray_is_shut_down_nobody_is_called(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningExecutions(keeper)  # type: ignore[arg-type]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    running.started()
    running.ended()
    assert keeper.calls == []


def test_copies_in_other_processes_do_nothing(keeper: Keeper) -> None:
    copy = pickle.loads(pickle.dumps(RunningExecutions(keeper)))  # type: ignore[arg-type]  # noqa: S301
    copy.started()
    copy.ended()
    assert keeper.calls == []


def test_ray_data_calls_back_however_it_ends(keeper: Keeper) -> None:
    class Context:
        custom_execution_callback_classes: list[type]

    context = Context()
    context.custom_execution_callback_classes = []
    watch_executions(context, keeper)  # type: ignore[arg-type]
    for end in ("after_execution_succeeds", "after_execution_fails"):
        callback = context.custom_execution_callback_classes[0]()
        callback.before_execution_starts(None)
        callback.on_execution_step(None)
        getattr(callback, end)(*([None] if "succeeds" in end else [None, RuntimeError()]))
    assert keeper.calls == ["begin", "end", "drain", "begin", "end", "drain"]
