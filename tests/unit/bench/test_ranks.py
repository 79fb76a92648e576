from __future__ import annotations

import pytest

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.errors import RankDiedError, WorkerGroupError
from tests.unit.bench.dying import die


def test_a_rank_that_dies_is_told_and_not_waited_for() -> None:
    with pytest.raises(WorkerGroupError) as caught:
        run_on_ranks(1, die, timeout_s=3600)
    assert isinstance(caught.value.causes[0], RankDiedError)
    assert "exit code 7" in str(caught.value)
