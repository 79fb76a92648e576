"""The copier's way through pinned buffers and streams of its own; its host side is in tests/unit."""

from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.copying import CHUNK_BYTES, Copier, Copy

pytestmark = pytest.mark.gpu


def copied(target: torch.Tensor, parts: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    with Copier("cuda:0", 8) as copier:
        copier.wait(copier.start([Copy(target, parts, dim)]))
        copier.finish()
    return target.cpu()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_many_chunks_arrive_whole_and_converted(dtype: torch.dtype) -> None:
    source = torch.randn(5 * CHUNK_BYTES // 4 // 1000 + 7, 1000)
    target = torch.empty(source.shape, dtype=dtype, device="cuda:0")
    assert torch.equal(copied(target, [source]), source.to(dtype))


def test_columns_and_joined_parts() -> None:
    source = torch.randn(30_000, 1500, dtype=torch.float16)
    target = torch.empty(30_000, 700, dtype=torch.float16, device="cuda:0")
    assert torch.equal(copied(target, [source[:, 100:800]]), source[:, 100:800])
    parts = [source[:, :200], source[:, 1000:]]
    assert torch.equal(copied(torch.empty_like(target), parts, dim=1), torch.cat(parts, dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_transposed_regions_of_one_tensor(dtype: torch.dtype) -> None:
    """As the parts of a fused layer are filled: all lanes into one tensor at once."""
    parts = [torch.randn(5000, 6000, dtype=torch.float16) for _ in range(3)]
    whole = torch.empty(6000, 15_000, dtype=dtype, device="cuda:0")
    with Copier("cuda:0", 16) as copier:
        places = torch.split(whole.t(), 5000)
        copier.wait(copier.start(Copy(place, [part]) for place, part in zip(places, parts, strict=True)))
        copier.finish()
    assert torch.equal(whole.cpu(), torch.cat(parts).t().to(dtype))


def test_thousands_of_small_tensors_between_large_ones() -> None:
    sizes = [1, 17, 5120, 20_480, 100_000, 3_000_000] * 200
    sources = [torch.randn(size, dtype=torch.float16) for size in sizes]
    copies = [Copy(torch.empty(source.shape, dtype=torch.bfloat16, device="cuda:0"), [source]) for source in sources]
    with Copier("cuda:0", 16) as copier:
        copier.wait(copier.start(copies))
        copier.finish()
    assert all(torch.equal(copy.target.cpu(), copy.parts[0].bfloat16()) for copy in copies)


def test_a_row_longer_than_a_buffer() -> None:
    source = torch.randn(3, CHUNK_BYTES // 2 + 1000, dtype=torch.float16)
    assert torch.equal(copied(torch.empty(source.shape, dtype=source.dtype, device="cuda:0"), [source]), source)


def test_what_the_current_stream_does_next_sees_the_values() -> None:
    """Memory that the device still works on is not overwritten, and results wait for what they read."""
    source = torch.ones(4000, 4000)
    with Copier("cuda:0", 8) as copier:
        total = torch.zeros((), device="cuda:0")
        for number in range(20):
            target = torch.empty(4000, 4000, device="cuda:0")  # the allocator gives the same memory again
            copier.wait(copier.start([Copy(target, [source * number])]))
            total += target.mean()
            del target
    assert total.item() == pytest.approx(sum(range(20)), rel=1e-3)
