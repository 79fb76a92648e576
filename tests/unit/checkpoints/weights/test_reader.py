from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.errors import CheckpointError, CorruptCheckpointError
from tests.weights import ONE, TWO, take, write_file, write_presharded, write_ranks, write_shards

BIG = torch.arange(24.0).reshape(6, 4)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, *FP8, torch.int64, torch.uint8, torch.bool]


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_reads_each_tensor_of_a_sharded_checkpoint(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, suffix)
    with TensorReader(describe(tmp_path)) as reader:
        assert sorted(reader) == ["a", "b.c"]
        assert torch.equal(reader.read("a"), ONE["a"])
        assert torch.equal(reader.read("b.c"), TWO["b.c"])
        assert reader.shape("a") == (2, 3)
        assert reader.shape("b.c") == (4,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_every_dtype_comes_back_bit_by_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    tensor = BIG.to(dtype)
    write_file(tmp_path / name, {"odd": torch.ones(3, dtype=torch.uint8), "t": tensor})
    with TensorReader(describe(tmp_path)) as reader:
        assert reader.read("t").dtype == dtype
        assert raw(reader.read("t")) == raw(tensor)
        parts = reader.parts("t", Slice(1, ((2, 4), (0, 1))))
        assert raw(torch.cat(parts, dim=1)) == raw(torch.cat([tensor[:, 2:4], tensor[:, 0:1]], dim=1))


RANGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4).map(
    lambda pairs: tuple((min(pair), max(pair) + 1) for pair in pairs)
)


@given(dim=st.integers(0, 2), ranges=RANGES)
def test_parts_are_what_indexing_gives(tmp_path_factory: pytest.TempPathFactory, dim: int, ranges: object) -> None:
    directory, tensor = tmp_path_factory.mktemp("weights"), torch.arange(216.0).reshape(6, 6, 6)
    write_file(directory / "model.safetensors", {"t": tensor})
    wanted = Slice(dim, ranges)  # type: ignore[arg-type]
    with TensorReader(describe(directory)) as reader:
        parts = reader.parts("t", wanted)
        assert torch.equal(torch.cat(parts, dim=dim), take(tensor, wanted))
        assert torch.cat(parts, dim=dim).shape == wanted.shape_of(tensor.shape)


def test_the_whole_is_one_part(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", {"t": BIG, "scalar": torch.tensor(7.0), "none": torch.empty(0, 3)})
    with TensorReader(describe(tmp_path)) as reader:
        assert [torch.equal(part, BIG) for part in reader.parts("t", WHOLE)] == [True]
        assert reader.parts("scalar", WHOLE)[0].item() == 7
        assert reader.parts("none", WHOLE)[0].shape == (0, 3)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_nothing_is_copied_nor_read_before_it_is_touched(tmp_path: Path, name: str) -> None:
    """In a process of its own: 64 MiB are there, and its resident memory grows only by what is touched."""
    write_file(tmp_path / name, {"t": torch.ones(16, 2**20)})
    code = f"""
import sys, torch
from pathlib import Path
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.checkpoints.tensors import Slice, WHOLE

def resident(kind):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(kind)) / 1024

describe(Path({str(tmp_path)!r}))
torch.ones(1).sum()
before = resident("VmRSS")
with TensorReader(describe(Path({str(tmp_path)!r}))) as reader:
    whole, (part,) = reader.read("t"), reader.parts("t", Slice(0, ((4, 8),)))
    assert part.data_ptr() == whole[4:].data_ptr()
    print(resident("VmRSS") - before, end=" ")
    anonymous = resident("RssAnon")
    assert part.sum() == 4 * 2**20
    print(resident("VmRSS") - before, resident("RssAnon") - anonymous)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    mapped, touched, copied = map(float, done.stdout.split())
    assert mapped < 6
    assert 15 < touched < 40  # the system maps a little around what is touched
    assert copied < 6


def test_several_threads_may_read(tmp_path: Path) -> None:
    states = [{f"t{i}": torch.full((50, 50), float(i))} for i in range(12)]
    write_shards(tmp_path, "safetensors", states)
    with TensorReader(describe(tmp_path)) as reader, ThreadPoolExecutor(8) as pool:
        names = list(reader) * 8
        assert list(pool.map(lambda name: reader.parts(name, Slice(0, ((3, 4),)))[0][0, 0].item(), names)) == [
            float(name[1:]) for name in names
        ]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_files_stay_mapped_no_longer_than_the_reader(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, suffix)

    def is_mapped() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    with TensorReader(describe(tmp_path)) as reader:
        reader.read("b.c")
        assert is_mapped()
    assert not is_mapped()


def test_a_part_that_a_tensor_does_not_have(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", {"t": BIG})
    with TensorReader(describe(tmp_path)) as reader:
        for wanted in (Slice(0, ((4, 7),)), Slice(2, ((0, 1),))):
            with pytest.raises(CheckpointError, match=r"tensor t of shape \(6, 4\) has no part indices"):
                reader.parts("t", wanted)


def test_a_rank_has_to_be_one_of_the_ranks(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", {"t": BIG})
    with pytest.raises(ValueError, match="rank 2 of 2"):
        TensorReader(describe(tmp_path), rank=2, tp_size=2)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_changed_after_it_was_described(tmp_path: Path, suffix: str) -> None:
    write_shards(tmp_path, suffix)
    description = describe(tmp_path)
    path = next(tmp_path.glob(f"*-00001-of-00002.{suffix}"))
    path.write_bytes(path.read_bytes()[:-1])
    with (
        TensorReader(description) as reader,
        pytest.raises(CorruptCheckpointError, match=f"{path.name}: changed after it was described"),
    ):
        reader.read("a")


def test_a_file_that_holds_something_else_of_the_same_size(tmp_path: Path) -> None:
    write_file(tmp_path / "model.safetensors", {"t": BIG})
    description = describe(tmp_path)
    write_file(tmp_path / "model.safetensors", {"t": BIG.reshape(4, 6)})
    with TensorReader(description) as reader, pytest.raises(CorruptCheckpointError, match="tensor t is another"):
        reader.read("t")


# Cut for ranks -------------------------------------------------------------------------------------------------

QKV = (Slice(0, ((0, 2), (4, 6))), Slice(0, ((2, 4),)))
COLUMNS = (Slice(1, ((0, 3),)), Slice(1, ((3, 4),)))


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    state = {"qkv": BIG.to(torch.bfloat16), "out": BIG * 2, "norm": torch.ones(3)}
    write_ranks(tmp_path, state, {"qkv": QKV, "out": COLUMNS}, 2)
    return tmp_path


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_its_own_piece_as_one_view(ranks: Path, rank: int) -> None:
    with TensorReader(describe(ranks), rank=rank, tp_size=2) as reader:
        (qkv,), (out,), (norm,) = (
            reader.parts(name, wanted) for name, wanted in (("qkv", QKV[rank]), ("out", COLUMNS[rank]), ("norm", WHOLE))
        )
        assert torch.equal(qkv, take(BIG.to(torch.bfloat16), QKV[rank]))
        assert torch.equal(out, take(BIG * 2, COLUMNS[rank]))
        assert torch.equal(norm, torch.ones(3))
        assert reader.shape("qkv") == (6, 4)


def test_the_whole_is_put_together_from_the_ranks_pieces(ranks: Path) -> None:
    for rank in (0, 1):
        with TensorReader(describe(ranks), rank=rank, tp_size=2) as reader:
            assert torch.equal(reader.read("qkv"), BIG.to(torch.bfloat16))
            assert torch.equal(reader.read("out"), BIG * 2)
            assert torch.equal(reader.read("norm"), torch.ones(3))


def test_a_rank_maps_only_its_own_files(ranks: Path) -> None:
    description = describe(ranks)
    next(ranks.glob("model-rank-001-*")).unlink()
    with TensorReader(description, rank=0, tp_size=2) as reader:
        assert reader.parts("qkv", QKV[0])[0].shape == (4, 4)
        with pytest.raises(CorruptCheckpointError, match=r"model-rank-001.*None bytes"):
            reader.read("qkv")


def test_the_same_part_in_other_words(ranks: Path) -> None:
    with TensorReader(describe(ranks), rank=1, tp_size=2) as reader:
        (part,) = reader.parts("qkv", Slice(0, ((2, 3), (3, 4))))
        assert part.shape == (2, 4)


def test_what_all_ranks_share_can_still_be_cut(ranks: Path) -> None:
    with TensorReader(describe(ranks), rank=1, tp_size=2) as reader:
        assert [part.shape for part in reader.parts("norm", Slice(0, ((0, 1), (2, 3))))] == [(1,), (1,)]


def test_what_was_cut_out_can_be_had_in_another_order_and_in_part(ranks: Path) -> None:
    with TensorReader(describe(ranks), rank=0, tp_size=2) as reader:
        for wanted in (Slice(0, ((4, 6), (0, 2))), Slice(0, ((5, 6),))):
            got = torch.cat(reader.parts("qkv", wanted))
            assert torch.equal(got, take(BIG.to(torch.bfloat16), wanted))


@pytest.mark.parametrize("wanted", [WHOLE, QKV[1], COLUMNS[0], Slice(0, ((4, 6), (1, 3)))])
def test_another_part_than_was_cut_out_is_refused(ranks: Path, wanted: Slice) -> None:
    with (
        TensorReader(describe(ranks), rank=0, tp_size=2) as reader,
        pytest.raises(CheckpointError, match=r"tensor qkv rank 0 needs .* but indices 0 to 2, 4 to 6 along dim"),
    ):
        reader.parts("qkv", wanted)


def test_a_whole_that_no_ranks_have_is_not_made_up(tmp_path: Path) -> None:
    halves = (Slice(0, ((0, 2),)), Slice(0, ((3, 6),)))
    write_ranks(tmp_path, {"t": BIG}, {"t": halves}, 2)
    with (
        TensorReader(describe(tmp_path), tp_size=2) as reader,
        pytest.raises(CheckpointError, match="no rank has index 2 of tensor t"),
    ):
        reader.read("t")


def test_a_rank_may_have_nothing_of_a_tensor(tmp_path: Path) -> None:
    write_ranks(tmp_path, {"t": BIG}, {"t": (Slice(0, ((0, 6),)), Slice(0, ()))}, 2)
    with TensorReader(describe(tmp_path), rank=1, tp_size=2) as reader:
        assert reader.parts("t", Slice(0, ()))[0].shape == (0, 4)
        assert torch.equal(reader.read("t"), BIG)


@pytest.mark.parametrize("tp_size", [1, 3])
def test_another_number_of_ranks_is_refused(ranks: Path, tp_size: int) -> None:
    with pytest.raises(CheckpointError, match=rf"cut for tensor-parallel size 2, not {tp_size}.*--tp {tp_size}"):
        TensorReader(describe(ranks), tp_size=tp_size)


# Cut by DeepSpeed ----------------------------------------------------------------------------------------------


def test_weights_that_deepspeed_cut(tmp_path: Path) -> None:
    cut = [[{"l.w": torch.full((2, 3), float(r))} for r in (0, 1)], [{"l.b": torch.ones(r + 1)} for r in (0, 1)]]
    write_presharded(tmp_path, cut, {"embed": BIG})
    with TensorReader(describe(tmp_path), rank=1, tp_size=2) as reader:
        assert sorted(reader) == ["embed", "l.b", "l.w"]
        assert torch.equal(reader.read("l.w"), torch.ones(2, 3))
        assert torch.equal(reader.read("l.b"), torch.ones(2))
        assert reader.shape("l.b") == (2,)
        assert torch.equal(reader.parts("embed", Slice(1, ((1, 2),)))[0], BIG[:, 1:2])
    with pytest.raises(CheckpointError, match=r"size 2, not 4.*raydsinfer reshard SRC DST --layout ranks --tp 4"):
        TensorReader(describe(tmp_path), tp_size=4)
