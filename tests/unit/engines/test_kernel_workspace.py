from __future__ import annotations

from types import SimpleNamespace

import pytest

from raydsinfer.engines.kernel_workspace import rows_to_reserve

OPT_66B = {"model_type": "opt", "hidden_size": 9216}
LLAMA_7B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008}


@pytest.mark.parametrize(
    ("config", "tp_size", "reserved"),
    [
        (OPT_66B, 1, 100),
        (OPT_66B, 2, 100),  # 3 + 4 / 2 of 10 / 2: just enough
        (OPT_66B, 4, 160),  # 3 + 4 / 4 of 10 / 4
        (OPT_66B, 8, 320),  # the norm at 3 to 4 of 10 / 8
        (LLAMA_7B, 1, 100),  # 3 + 5.375 of 10
        (LLAMA_7B, 2, 114),  # 3 + 5.375 / 2 of 10 / 2
        ({"model_type": "bloom", "hidden_size": 14336}, 8, 100),
    ],
)
def test_activations_end_before_the_cache(config: dict[str, object], tp_size: int, reserved: int) -> None:
    got = rows_to_reserve(SimpleNamespace(**config), rows=100, max_tokens=100_000, tp_size=tp_size)
    assert got == reserved


def test_a_single_row_that_does_not_fit_gets_the_room_of_two() -> None:
    config = SimpleNamespace(**LLAMA_7B)
    assert rows_to_reserve(config, rows=1, max_tokens=2048, tp_size=2) == 2
    assert rows_to_reserve(config, rows=1, max_tokens=2048, tp_size=1) == 1
