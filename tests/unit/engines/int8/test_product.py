from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.int8.product import _operation, dequantised, int8_linear


def operands(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = torch.randint(-127, 128, (6, 8), dtype=torch.int8)
    return torch.randn(2, 3, 8, dtype=dtype), weight, torch.rand(6, 1), torch.randn(6, dtype=dtype)


def test_small_scales_are_not_rounded_to_sixteen_bits() -> None:
    weight, scale = torch.tensor([[127]], dtype=torch.int8), torch.tensor([[1.1e-6]])
    assert dequantised(weight, scale, torch.float16).item() == torch.tensor(127 * 1.1e-6).half().item()
    assert abs(scale.half().item() * 127 - 127 * 1.1e-6) > 0.01 * 127 * 1.1e-6, "which would make a difference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shape_and_dtype_are_those_of_the_activations(dtype: torch.dtype) -> None:
    answer = int8_linear(*operands(dtype), False)
    assert (answer.shape, answer.dtype) == ((2, 3, 6), dtype)
    on_meta = _operation(*(tensor.to("meta") for tensor in operands(dtype)), False)
    assert (on_meta.shape, on_meta.dtype, on_meta.is_meta) == ((2, 3, 6), dtype, True)


def test_it_is_traced_as_one_operation() -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    given = operands(torch.float32)
    compiled = torch.compile(lambda *tensors: int8_linear(*tensors, False), backend=backend, fullgraph=True)
    assert torch.equal(compiled(*given), int8_linear(*given, False))
    assert seen == ["raydsinfer.int8_linear.default"]


def test_the_operation_is_well_formed() -> None:
    """Schema, fake tensors and tracing, by torch's own checks."""
    hidden, weight, scale, bias = operands(torch.float32)
    for given in (bias, None):
        torch.library.opcheck(_operation, (hidden, weight, scale, given, False))
