"""The kernel's arithmetic in Triton's interpreter, which has no bfloat16; tests/gpu/test_int8.py compiles it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which comes with torch for GPUs")
if torch.cuda.is_available():
    pytest.skip("is about the interpreter", allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_floats(dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from raydsinfer.engines.int8.kernel import int8_matmul

    for rows, outputs, inputs in ((1, 32, 128), (3, 70, 300), (17, 5, 64), (64, 130, 1), (130, 65, 129)):
        weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
        hidden, scale = torch.randn(rows, inputs).to(dtype), torch.rand(outputs, 1) / 127
        added = torch.randn(outputs).to(dtype) if bias else None
        exact = hidden.double() @ (weight.double() * scale.double()).T + (0 if added is None else added.double())
        answer = int8_matmul(hidden, weight, scale, added)
        assert answer.dtype == dtype
        torch.testing.assert_close(answer, exact.to(dtype), atol=1e-4, rtol=2 * torch.finfo(dtype).eps)
