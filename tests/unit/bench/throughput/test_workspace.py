from __future__ import annotations

from typing import Any

import pytest

from raydsinfer.bench.shapes import shape
from raydsinfer.bench.throughput.workspace import too_large, workspace_bytes

GIB = 2**30


def config(name: str) -> Any:
    from transformers import AutoConfig

    fields = shape(name)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def test_what_deepspeed_asked_for_on_a_gpu() -> None:
    # OPT-66b on 2 ranks, 32 rows of 192 tokens in float16: it printed 7.9 GiB (docs/benchmarks.md).
    found = workspace_bytes(config("opt-66b"), rows=32, tokens=192, tp_size=2, item_size=2)
    assert found / GIB == pytest.approx(7.9, abs=0.05)


def test_only_what_does_not_fit_is_left_out() -> None:
    rows = {"uniform": 192, "mixed": 896}
    found = too_large(rows, 50 * GIB, config("opt-13b"), batch_size=128, tp_size=1, item_size=2)
    assert list(found) == ["mixed"]
    assert "128 rows of 896 tokens need" in found["mixed"]
    assert "48.0 are free" in found["mixed"]
    assert not too_large(rows, 50 * GIB, config("opt-13b"), batch_size=32, tp_size=1, item_size=2)
    assert len(too_large(rows, 1 * GIB, config("opt-13b"), batch_size=128, tp_size=1, item_size=2)) == 2
