"""The GPU's side is in tests/gpu; here the lanes copy into host memory."""

from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.copying import Copier, Copy, reader_threads


def copied(target: torch.Tensor, parts: list[torch.Tensor], dim: int = 0, **settings: int) -> tuple[torch.Tensor, int]:
    counted: list[int] = []
    with Copier("cpu", 2, counted.append, **settings) as copier:
        copier.wait(copier.start([Copy(target, parts, dim)]))
        copier.finish()
    return target, sum(counted)


@pytest.mark.parametrize("threads_a_lane", [1, 2])
def test_a_large_tensor_is_cut_into_pieces_and_arrives_whole(threads_a_lane: int) -> None:
    # 96 MB: two pieces, of which the second is smaller.
    source = torch.arange(24 * 2**20, dtype=torch.float32).reshape(-1, 1024)
    target, num_bytes = copied(torch.empty_like(source), [source], threads_a_lane=threads_a_lane)
    assert torch.equal(target, source)
    assert num_bytes == source.nbytes


def test_parts_are_joined_along_rows_and_columns() -> None:
    whole = torch.arange(400_000, dtype=torch.float32).reshape(400, 1000)
    rows = [whole[10:200], whole[300:310]]
    assert torch.equal(copied(torch.empty(200, 1000), rows)[0], torch.cat(rows))
    columns = [whole[:, 5:500], whole[:, 900:]]
    assert torch.equal(copied(torch.empty(400, 595), columns, dim=1)[0], torch.cat(columns, dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_converts_to_the_targets_dtype(dtype: torch.dtype) -> None:
    source = torch.randn(300, 300)
    target, num_bytes = copied(torch.empty(300, 300, dtype=dtype), [source])
    assert torch.equal(target, source.to(dtype))
    assert num_bytes == target.nbytes


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (7,)])
def test_small_and_empty_tensors(shape: tuple[int, ...]) -> None:
    source = torch.ones(shape)
    assert torch.equal(copied(torch.zeros(shape), [source])[0], source)


def test_many_tensors_of_all_sizes_arrive_each_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.engines.copying._BATCH_BYTES", 3000)
    sources = [torch.randn(size, dtype=dtype) for size in (1, 90, 700, 99_000) for dtype in (torch.float32, torch.half)]
    counted: list[int] = []
    copies = [Copy(torch.empty_like(source, dtype=torch.float32), [source]) for source in sources * 5]
    with Copier("cpu", 2, counted.append) as copier:
        copier.wait(copier.start(copies))
    assert all(torch.equal(copy.target, copy.parts[0].float()) for copy in copies)
    assert sum(counted) == sum(copy.target.nbytes for copy in copies)


@pytest.mark.parametrize("columns", [30, 3000])
def test_a_transposed_region_of_a_larger_tensor(columns: int) -> None:
    source = torch.randn(200, columns)
    whole = torch.zeros(columns, 500)
    copied(whole.t()[100:300], [source])
    assert torch.equal(whole[:, 100:300], source.t())
    assert not whole[:, :100].any()
    assert not whole[:, 300:].any()


def test_what_goes_wrong_in_a_lane_comes_out_of_wait() -> None:
    with Copier("cpu", 1) as copier:
        started = copier.start([Copy(torch.empty(200, 200), [torch.ones(200, 300)])])
        with pytest.raises(RuntimeError, match="size"):
            copier.wait(started)


def test_stacked_matrices_are_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydsinfer.engines.copying._TASK_BYTES", 2**16)
    source = torch.arange(4 * 300 * 100, dtype=torch.float32).reshape(4, 300, 100)
    assert torch.equal(copied(torch.empty(4, 300, 100), [source])[0], source)
    part = source[:, 10:200]  # not contiguous
    assert torch.equal(copied(torch.empty(4, 190, 100), [part])[0], part)


@pytest.mark.timeout(20)
def test_an_error_while_many_lanes_open_comes_out_at_once() -> None:
    for _ in range(5):
        with pytest.raises(KeyError, match="early"), Copier("cpu", 40):
            raise KeyError("early")


def test_a_lane_that_cannot_open_is_an_error_of_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise MemoryError("no pinned memory")

    with Copier("cpu", 15) as copier:
        copier.wait(copier.start([Copy(torch.empty(300, 300), [torch.ones(300, 300)])]))
    before = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", refuse)
    copier = Copier("cpu", 15).__enter__()
    with pytest.raises(MemoryError, match="pinned"):
        copier.wait(copier.start([Copy(torch.empty(300, 300), [torch.ones(300, 300)])]))
    monkeypatch.setattr(torch, "set_num_threads", before)
    copier.__exit__(None, None, None)


def test_the_number_of_torchs_threads_is_as_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with Copier("cpu", 8) as copier:
            copier.wait(copier.start([Copy(torch.empty(300, 300), [torch.ones(300, 300)])]))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_ranks_share_a_nodes_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert reader_threads(1) == 16
    assert reader_threads(3) == 5
    assert reader_threads(64) == 1
