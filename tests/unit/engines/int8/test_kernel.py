"""The kernel's arithmetic in Triton's interpreter, which has no bfloat16; tests/gpu/test_int8.py compiles it."""

from __future__ import annotations

import multiprocessing
from importlib.util import find_spec

import pytest
import torch

# Rows, outputs, inputs; the last ones are cut into parts of their inputs.
SIZES = ((1, 32, 128), (17, 5, 64), (64, 130, 1), (3, 70, 300), (130, 65, 129), (2, 128, 1300), (40, 70, 1024))


def compare() -> None:
    from raydsinfer.engines.int8.blocks import blocks_for
    from raydsinfer.engines.int8.floats_kernel import make_floats
    from raydsinfer.engines.int8.kernel import int8_matmul
    from raydsinfer.engines.int8.product import dequantised

    for dtype in (torch.float32, torch.float16):
        for rows, outputs, inputs in SIZES:
            weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
            hidden, scale = torch.randn(rows, inputs).to(dtype), torch.rand(outputs, 1) / 127
            exact = hidden.double() @ (weight.double() * scale.double()).T
            bias = torch.randn(outputs).to(dtype)
            for added, wanted in ((None, exact), (bias, exact + bias.double())):
                for tensor_cores in (True, False):
                    cut = blocks_for(rows, outputs, inputs, tensor_cores=tensor_cores)
                    answer = int8_matmul(hidden, weight, scale, added, cut)
                    torch.testing.assert_close(answer, wanted.to(dtype), atol=1e-4, rtol=2 * torch.finfo(dtype).eps)
            assert torch.equal(make_floats(weight, scale, dtype), dequantised(weight, scale, dtype))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which comes with torch for GPUs")
def test_products_are_those_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # counts when Triton is imported first: in a process of its own
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(compare)
