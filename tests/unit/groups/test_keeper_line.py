"""A keeper that does not answer costs a warning and no job."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from raydsinfer.groups.keeper_line import KeeperLine


class Silent:
    """Stands in for the handle of a keeper that hangs: every call runs out of time."""

    def __getattr__(self, method: str) -> Any:
        return self

    def remote(self, *args: Any) -> Any:
        raise GetTimeoutError("no answer")


def test_a_silent_keeper_is_one_warning_and_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    keeper: Any = Silent()
    line = KeeperLine(keeper, "gang-a")
    assert [line.ask("num_placed"), line.ask("take_restart", 1, 5.0)] == [None, None]
    assert len(caplog.records) == 1
    assert "gang-a: the keeper does not answer (GetTimeoutError)" in caplog.text


def test_without_a_keeper_there_is_nobody_to_ask(caplog: pytest.LogCaptureFixture) -> None:
    line = KeeperLine(None, "gang-a")
    line.tell("count_rows", 1, 0)
    assert line.ask("num_placed") is None
    assert caplog.records == []
