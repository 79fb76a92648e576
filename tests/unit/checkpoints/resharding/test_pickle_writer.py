"""DeepSpeed's form of made-up checkpoints: what comes out, what is refused, what a crash leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.resharding.fused import FusedRules, FusedTensor, Region
from raydsinfer.checkpoints.resharding.manifest import MANIFEST, Settings
from raydsinfer.checkpoints.resharding.pickle_plan import plan_pickles
from raydsinfer.checkpoints.resharding.pickle_writer import PickleWriter
from raydsinfer.checkpoints.resharding.reshard import reshard_files
from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.errors import CheckpointError, InvalidSettingError, OutputError, UnsupportedError
from tests import synthetic

WIDTH = 16
FUSED = Settings(layout="deepspeed", tp_size=2, max_shard_bytes=10**7)


def rules(num_layers: int = 3) -> FusedRules:
    """Of each layer: rows of two matrices joined and transposed, columns of one, and a bias."""

    def region(source: str, part: Slice, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Region:
        return Region(source=source, part=part, offset=offset, shape=shape, stride=stride)

    def layer(index: int, rank: int) -> list[FusedTensor]:
        name, half = f"model.layers.{index}", WIDTH // 2
        rows, long_rows = Slice(0, ((rank * half, half + rank * half),)), Slice(0, ((32 * rank, 32 + 32 * rank),))
        joined = (
            region(f"{name}.attn.weight", rows, 0, (half, WIDTH), (1, 40)),
            region(f"{name}.mlp.up.weight", long_rows, half, (32, WIDTH), (1, 40)),
        )
        columns = region(f"{name}.mlp.down.weight", Slice(1, long_rows.ranges), 0, (WIDTH, 32), (32, 1))
        bias = region(f"{name}.mlp.up.bias", long_rows, 0, (32,), (1,))
        return [
            FusedTensor(names=(f"{name}.joined_w",), shape=(WIDTH, 40), regions=joined),
            FusedTensor(names=(f"{name}.out_w",), shape=(WIDTH, 32), regions=(columns,)),
            FusedTensor(names=(f"{name}.b",), shape=(32,), regions=(bias,)),
        ]

    embed = region("model.embed.weight", WHOLE, 0, (40, WIDTH), (WIDTH, 1))
    norm = region("model.norm.weight", WHOLE, 0, (WIDTH,), (1,))
    return FusedRules(
        model_type="ds_model",
        whole=[
            FusedTensor(names=("lm_head.weight", "model.embed.weight"), shape=(40, WIDTH), regions=(embed,)),
            FusedTensor(names=("model.norm.weight",), shape=(WIDTH,), regions=(norm,)),
        ],
        by_rank=[[tensor for index in range(num_layers) for tensor in layer(index, rank)] for rank in range(2)],
    )


def expected(state: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    found = {}
    for index in range(sum(name.endswith("bias") for name in state)):
        name = f"model.layers.{index}"
        rows, long_rows = slice(8 * rank, 8 * rank + 8), slice(32 * rank, 32 * rank + 32)
        joined = torch.cat([state[f"{name}.attn.weight"][rows], state[f"{name}.mlp.up.weight"][long_rows]])
        found[f"{name}.joined_w"] = joined.T
        found[f"{name}.out_w"] = state[f"{name}.mlp.down.weight"][:, long_rows]
        found[f"{name}.b"] = state[f"{name}.mlp.up.bias"][long_rows]
    return found


def run(source: Path, target: Path, settings: Settings = FUSED, known: FusedRules | None = None, **more: Any) -> Any:
    return reshard_files(source, target, settings, origin={}, rules=lambda: known or rules(), **more)


def loaded(target: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """As anybody would who has only torch."""
    states = [torch.load(target / name, weights_only=True) for name in names]
    assert all(tensor.is_contiguous() for state in states for tensor in state.values())
    merged = {name: tensor for state in states for name, tensor in state.items()}
    assert len(merged) == sum(map(len, states))
    return merged


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in found if not torch.equal(found[name], wanted[name].to(dtype))] == []


@pytest.mark.parametrize("form", ["safetensors", "bin", "old"])
@pytest.mark.parametrize(("max_shard_bytes", "num_parts"), [(10**7, 1), (7000, 3), (100, 9)])
def test_each_rank_finds_its_part_in_files_of_its_own(
    tmp_path: Path, form: str, max_shard_bytes: int, num_parts: int
) -> None:
    state, target = synthetic.tensors(), tmp_path / "target"
    source = synthetic.write(tmp_path / "source", state, form=form)
    told: list[tuple[int, int]] = []
    settings = Settings(layout="deepspeed", tp_size=2, max_shard_bytes=max_shard_bytes)
    report = run(source, target, settings, on_progress=lambda *at: told.append(at))
    index = json.loads((target / "ds_inference_config.json").read_text())
    assert index == {
        "type": "ds_model",
        "base_dir": str(target),
        "checkpoints": {
            "non_tp": ["non-tp.pt"],
            "tp": [f"tp_{rank:02}_{part:02}.pt" for part in range(num_parts) for rank in range(2)],
        },
        "version": 1.0,
        "parallelization": "tp",
        "tp_size": 2,
        "dtype": "float32",
    }
    files = index["checkpoints"]["tp"]
    for rank in range(2):
        assert_same(loaded(target, files[rank::2]), expected(state, rank), torch.float32)
    whole = loaded(target, ["non-tp.pt"])
    assert torch.equal(whole["lm_head.weight"], state["model.embed.weight"])
    assert whole["lm_head.weight"].data_ptr() == whole["model.embed.weight"].data_ptr()
    assert told[-1] == (sum(t.nbytes for t in state.values()),) * 2
    sizes = {name: (target / name).stat().st_size for name in ["non-tp.pt", *files]}
    assert (report.layout, report.num_files, report.num_bytes) == ("deepspeed", len(sizes), sum(sizes.values()))
    extras = {"config.json", "tokenizer.model", "ds_inference_config.json", MANIFEST}
    assert {path.name for path in target.iterdir()} == {*sizes, *extras}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock"}
    description = describe(target)
    assert (description.form, description.tp_size) == ("deepspeed", 2)
    assert description.tied == (frozenset({"lm_head.weight", "model.embed.weight"}),)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_another_dtype(tmp_path: Path, dtype: str) -> None:
    state = synthetic.tensors()
    settings = Settings(layout="deepspeed", tp_size=2, dtype=dtype, max_shard_bytes=10**7)
    run(synthetic.write(tmp_path / "source", state), tmp_path / "target", settings)
    assert_same(loaded(tmp_path / "target", ["tp_01_00.pt"]), expected(state, 1), getattr(torch, dtype))
    assert json.loads((tmp_path / "target" / "ds_inference_config.json").read_text())["dtype"] == dtype


def test_values_that_do_not_fit_are_named_and_nothing_is_left_in_place(tmp_path: Path) -> None:
    state = synthetic.tensors()
    state["model.layers.1.mlp.up.weight"][0, 0] = 1e6
    settings = Settings(layout="deepspeed", tp_size=2, dtype="float16", max_shard_bytes=10**7)
    with pytest.raises(
        CheckpointError, match=r"1 of 1024 values of model\.layers\.1\.mlp\.up\.weight do not fit float16"
    ):
        run(synthetic.write(tmp_path / "source", state), tmp_path / "target", settings)
    assert not (tmp_path / "target").exists()


def test_mixed_dtypes_have_to_be_decided(tmp_path: Path) -> None:
    state = synthetic.tensors()
    state["model.norm.weight"] = state["model.norm.weight"].half()
    source = synthetic.write(tmp_path / "source", state)
    with pytest.raises(InvalidSettingError, match=r"dtype=None.*float16 and float32: say which, with --dtype"):
        run(source, tmp_path / "target")
    run(source, tmp_path / "target", Settings(layout="deepspeed", tp_size=2, dtype="float32", max_shard_bytes=10**7))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    state = synthetic.tensors(dtype="float8_e4m3fn")
    with pytest.raises(UnsupportedError, match=r"layout='deepspeed' for weights in float8_e4m3fn"):
        run(synthetic.write(tmp_path / "source", state), tmp_path / "target")


def test_integers_beside_the_layers_stay(tmp_path: Path) -> None:
    state = synthetic.tensors() | {"model.norm.weight": torch.arange(WIDTH)}
    settings = Settings(layout="deepspeed", tp_size=2, dtype="float16", max_shard_bytes=10**7)
    run(synthetic.write(tmp_path / "source", state), tmp_path / "target", settings)
    assert torch.equal(loaded(tmp_path / "target", ["non-tp.pt"])["model.norm.weight"], torch.arange(WIDTH))


def test_a_stopped_run_goes_on_where_it_was_and_trusts_no_damaged_file(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=8)
    source, target, partial = (
        synthetic.write(tmp_path / "source", state),
        tmp_path / "target",
        tmp_path / "target.partial",
    )
    settings = Settings(layout="deepspeed", tp_size=2, max_shard_bytes=6000)
    with pytest.raises(RuntimeError, match="enough"):
        run(source, target, settings, rules(8), on_progress=_stop_after(60_000))
    assert not target.exists()
    finished = sorted(path.name for path in partial.glob("*.pt"))
    assert len(finished) >= 2
    damaged = bytearray((partial / finished[0]).read_bytes())
    damaged[-200] ^= 1
    (partial / finished[0]).write_bytes(damaged)
    report = run(source, target, settings, rules(8))
    assert 1 <= report.num_resumed < len(finished) + 1 <= report.num_files
    files = json.loads((target / "ds_inference_config.json").read_text())["checkpoints"]["tp"]
    for rank in range(2):
        assert_same(loaded(target, files[rank::2]), expected(state, rank), torch.float32)
    assert not partial.exists()


def _stop_after(num_bytes: int) -> Any:
    def stop(done: int, total: int) -> None:
        if done > num_bytes:
            raise RuntimeError("enough")

    return stop


KILLED = """
import os, signal, sys
from pathlib import Path
from raydsinfer.checkpoints.resharding.manifest import Settings
from tests.unit.checkpoints.resharding.test_pickle_writer import rules, run
def kill(done, total):
    if done > 60_000:
        os.kill(os.getpid(), signal.SIGKILL)
settings = Settings(layout="deepspeed", tp_size=2, max_shard_bytes=6000)
run(Path(sys.argv[1]), Path(sys.argv[2]), settings, rules(8), on_progress=kill)
"""


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=8)
    source, target = synthetic.write(tmp_path / "source", state), tmp_path / "target"
    command = [sys.executable, "-c", KILLED, str(source), str(target)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[4], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    report = run(source, target, Settings(layout="deepspeed", tp_size=2, max_shard_bytes=6000), rules(8))
    assert report.num_resumed >= 1
    assert sorted(path.name for path in target.iterdir() if path.is_dir()) == []
    files = json.loads((target / "ds_inference_config.json").read_text())["checkpoints"]["tp"]
    assert_same(loaded(target, files[1::2]), expected(state, 1), torch.float32)


def test_a_second_time_finds_it_there_and_other_ranks_are_another_reshard(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors())
    run(source, tmp_path / "target")
    assert run(source, tmp_path / "target").already_there
    run(source, tmp_path / "target", overwrite=True)
    assert (tmp_path / "target" / "tp_01_00.pt").is_file()


def test_the_space_that_is_asked_for_is_what_is_taken_at_the_most(tmp_path: Path) -> None:
    description = describe(synthetic.write(tmp_path / "source", synthetic.tensors(width=WIDTH)))
    plan = plan_pickles(rules(), description, FUSED)
    taken: list[int] = []

    def look() -> None:
        files = sum(path.stat().st_size for path in tmp_path.glob("*.pt"))
        taken.append(files + mapped_bytes(tmp_path / "scratch"))

    writer = PickleWriter(description, tmp_path, scratch=tmp_path / "scratch", on_bytes=lambda _: look(), check=look)
    written = 0
    for stripe in plan.stripes:
        taken.clear()
        [found] = writer.write(stripe).values()
        written += found.bytes
        assert max(taken) == written + stripe.files[0].scratch_bytes
    assert written <= plan.num_bytes


def mapped_bytes(scratch: Path) -> int:
    """Of files in a directory that have no name any more and are still mapped."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == "(deleted)" and str(scratch) in line[-2]]
    return sum(int(stop, 16) - int(start, 16) for start, stop in ranges)


def test_a_disk_without_room_for_both_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors())
    num_bytes = run(source, tmp_path / "first").num_bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=num_bytes + 20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"\d+\.\d kB are needed, \d+\.\d kB are free"):
        run(source, tmp_path / "target")
