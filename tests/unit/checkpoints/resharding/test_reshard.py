"""Reshards of small made-up checkpoints: what comes out, what is refused, what a crash leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raydsinfer.checkpoints.resharding.forms import Rules
from raydsinfer.checkpoints.resharding.journal import JOURNAL
from raydsinfer.checkpoints.resharding.manifest import MANIFEST, Settings
from raydsinfer.checkpoints.resharding.planner import layer_of
from raydsinfer.checkpoints.resharding.reshard import ReshardReport, reshard_files
from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.ranks_index import RANKS_INDEX, read_ranks_index
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InvalidSettingError,
    OutputError,
    UnsupportedError,
    WeightsMismatchError,
)
from tests import synthetic

LAYERS = Settings(layout="layers", max_shard_bytes=10**7)
RANKS = Settings(layout="ranks", tp_size=3, max_shard_bytes=10**7)
FORMS = ["safetensors", "bin", "old"]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return synthetic.tensors()


@pytest.fixture
def source(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    return synthetic.write(tmp_path / "source", state)


def run(source: Path, target: Path, settings: Settings = LAYERS, rules: Rules | None = None, **more: Any) -> Any:
    return reshard_files(source, target, settings, origin={"name": "made-up"}, rules=lambda: rules or {}, **more)


def whole(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, put together by our own reader."""
    description = describe(directory)
    with TensorReader(description, tp_size=description.tp_size or 1) as reader:
        return {name: reader.read(name).clone() for name in reader}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("form", FORMS)
def test_layers(tmp_path: Path, state: dict[str, torch.Tensor], form: str) -> None:
    source, target = synthetic.write(tmp_path / "source", state, form=form), tmp_path / "target"
    told: list[tuple[int, int]] = []
    report = run(source, target, on_progress=lambda done, total: told.append((done, total)))
    weight_map = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: load_file(target / name) for name in sorted(set(weight_map.values()))}
    assert_same({name: files[file][name] for name, file in weight_map.items()}, state)
    layers = [{layer_of(name) for name in content} for content in files.values()]
    assert sorted(map(str, set().union(*layers))) == ["None", *(f"model.layers.{i}" for i in range(3))]
    assert all(len(owners) == 1 for owners in layers)
    assert len(layers) == 4
    assert told[-1] == (sum(t.nbytes for t in state.values()),) * 2
    assert report == ReshardReport(
        target=target,
        layout="layers",
        tp_size=None,
        num_tensors=len(state),
        num_files=4,
        num_bytes=sum((target / name).stat().st_size for name in files),
        num_resumed=0,
        already_there=False,
        seconds=report.seconds,
    )
    extras = {"config.json", "tokenizer.model", "model.safetensors.index.json", MANIFEST}
    assert {path.name for path in target.iterdir()} == {*files, *extras}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_shard_bytes", [10**7, 4000])
def test_ranks(tmp_path: Path, state: dict[str, torch.Tensor], form: str, max_shard_bytes: int) -> None:
    source, target = synthetic.write(tmp_path / "source", state, form=form), tmp_path / "target"
    rules = synthetic.uneven_rules(state)
    settings = Settings(layout="ranks", tp_size=3, max_shard_bytes=max_shard_bytes)
    run(source, target, settings, rules)
    description = describe(target)
    assert (description.form, description.tp_size) == ("ranks", 3)
    for rank in range(3):
        with TensorReader(description, rank=rank, tp_size=3) as reader:
            for name, tensor in state.items():
                (found,) = reader.parts(name, rules[name][rank])
                assert torch.equal(found, synthetic.part_of(tensor, rules[name][rank])), (name, rank)
    index = read_ranks_index(target)
    assert index.source == {"name": "made-up"}
    assert len(index.files) == (4 if max_shard_bytes == 10**7 else len(set(index.files)))
    assert all((target / name).stat().st_size == file.bytes for name, file in index.files.items())
    stored_once = {name for name, parts in rules.items() if parts[0].dim is None}
    assert set(index.shared) == stored_once


def test_a_large_limit_gives_few_files_and_a_small_one_many(tmp_path: Path, source: Path, state: Any) -> None:
    rules = synthetic.uneven_rules(state)
    few = run(source, tmp_path / "few", RANKS, rules)
    many = run(source, tmp_path / "many", Settings(layout="ranks", tp_size=3, max_shard_bytes=4000), rules)
    assert few.num_files == 4
    assert many.num_files > 12
    sizes = [path.stat().st_size for path in (tmp_path / "many").glob("*.safetensors")]
    assert sorted(sizes)[len(sizes) // 2] <= 4000


def test_there_and_back(tmp_path: Path, source: Path, state: dict[str, torch.Tensor]) -> None:
    rules = synthetic.uneven_rules(state)
    run(source, tmp_path / "ranks", RANKS, rules)
    run(tmp_path / "ranks", tmp_path / "layers")
    assert_same(whole(tmp_path / "layers"), state)
    assert not (tmp_path / "layers" / RANKS_INDEX).exists()
    run(tmp_path / "layers", tmp_path / "ranks again", RANKS, rules)
    for path in (tmp_path / "ranks").glob("*.safetensors"):
        assert_same(load_file(tmp_path / "ranks again" / path.name), load_file(path))


def test_ranks_that_have_not_everything_cannot_be_joined(tmp_path: Path, source: Path, state: Any) -> None:
    rules = synthetic.uneven_rules(state)
    rules["model.layers.0.attn.weight"] = (Slice(0, ((0, 1),)), Slice(0, ((2, 16),)), Slice(0, ()))
    run(source, tmp_path / "ranks", RANKS, rules)
    with pytest.raises(CheckpointError, match=r"no rank has index 1 of tensor model\.layers\.0\.attn\.weight"):
        run(tmp_path / "ranks", tmp_path / "layers")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float64"])
def test_dtypes(tmp_path: Path, dtype: str, stored: str) -> None:
    state = synthetic.tensors(num_layers=1, dtype=stored)
    state |= {"steps": torch.arange(5), "mask": torch.tensor([True, False, True])}
    source = synthetic.write(tmp_path / "source", state)
    run(source, tmp_path / "target", Settings(layout="layers", dtype=dtype, max_shard_bytes=10**7))
    kind = getattr(torch, dtype)
    expected = {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}
    assert_same(whole(tmp_path / "target"), expected)
    assert json.loads((tmp_path / "target" / "config.json").read_text())["torch_dtype"] == dtype


def test_mixed_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=1, dtype="bfloat16")
    state |= {"a": torch.tensor(3, dtype=torch.int8), "b": torch.rand(3), "c": torch.zeros(0, 4), "d": torch.arange(3)}
    run(synthetic.write(tmp_path / "source", state), tmp_path / "target")
    assert_same(whole(tmp_path / "target"), state)


def test_values_that_do_not_fit_are_counted_and_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["model.layers.1.attn.weight"][3, 4:7] = torch.tensor([7e4, -1e30, torch.inf])
    source, target = synthetic.write(tmp_path / "source", state), tmp_path / "target"
    too_small = Settings(layout="layers", dtype="float16", max_shard_bytes=10**7)
    says = r"2 of 256 values of model\.layers\.1\.attn\.weight do not fit float16 \(largest 1e\+30, limit 65504\)"
    with pytest.raises(CheckpointError, match=says):
        run(source, target, too_small)
    assert not target.exists()
    run(source, target, Settings(layout="layers", dtype="bfloat16", max_shard_bytes=10**7))


def test_quantised_weights_are_copied_but_not_converted(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=1)
    state["model.layers.0.attn.weight"] = state["model.layers.0.attn.weight"].to(torch.float8_e4m3fn)
    source = synthetic.write(tmp_path / "source", state)
    with pytest.raises(UnsupportedError, match="quantised weights"):
        run(source, tmp_path / "target", Settings(layout="layers", dtype="float16", max_shard_bytes=10**7))
    run(source, tmp_path / "target")
    found = load_file(next((tmp_path / "target").glob("model-00002*")))
    expected = state["model.layers.0.attn.weight"].view(torch.uint8)
    assert torch.equal(found["model.layers.0.attn.weight"].view(torch.uint8), expected)


def test_tied_tensors_of_pickles_are_written_under_each_name(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    tied = {**state, "lm_head.weight": state["model.embed.weight"]}
    source = synthetic.write(tmp_path / "source", tied, form="bin", num_files=1)
    run(source, tmp_path / "layers")
    assert_same(whole(tmp_path / "layers"), tied)
    run(source, tmp_path / "ranks", RANKS, synthetic.uneven_rules(tied))
    assert read_ranks_index(tmp_path / "ranks").tied == (("lm_head.weight", "model.embed.weight"),)


def test_tensors_that_lie_oddly_in_their_pickle(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    odd = {**state, "t": torch.rand(5, 7).T, "strided": torch.arange(20.0)[::3], "scalar": torch.tensor(2.5)}
    run(synthetic.write(tmp_path / "source", odd, form="bin"), tmp_path / "target")
    assert_same(whole(tmp_path / "target"), odd)


def test_small_files_come_along_and_other_weights_do_not(tmp_path: Path, source: Path) -> None:
    templates = source / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool.jinja").write_text("{{ tool }}")
    for name in ("generation_config.json", "modeling_own.py", "chat_template.jinja", "LICENSE", "merges.txt"):
        (source / name).write_text(name)
    for name in ("model.gguf", "pytorch_model.bin", "optimizer.pt", "SHA256SUMS", ".hidden", "flax_model.msgpack"):
        (source / name).write_bytes(b"no")
    (source / "onnx").mkdir()
    run(source, tmp_path / "target")
    found = {str(path.relative_to(tmp_path / "target")) for path in (tmp_path / "target").rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("model-")} == {
        "LICENSE",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "modeling_own.py",
        "tokenizer.model",
        MANIFEST,
    }
    assert (tmp_path / "target" / "tokenizer.model").read_bytes() == b"a tokenizer"


def test_a_second_time_finds_it_there(tmp_path: Path, source: Path, state: dict[str, torch.Tensor]) -> None:
    def never() -> Rules:
        raise AssertionError("the rules are asked for only to write")

    run(source, tmp_path / "target", RANKS, synthetic.uneven_rules(state))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()}
    report = reshard_files(source, tmp_path / "target", RANKS, origin={}, rules=never)
    assert report.already_there
    assert report.num_files == 4
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "target").iterdir()} == before


def test_a_copy_of_the_source_on_another_node_is_the_same_source(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "target")
    later = time.time_ns() + 10**10
    for path in source.iterdir():
        os.utime(path, ns=(later, later))
    monkeypatch.setattr("platform.node", lambda: "another")
    assert run(source, tmp_path / "target").already_there


@pytest.mark.parametrize("other", ["settings", "weights", "tokenizer"])
def test_another_reshard_at_the_target_is_replaced_only_if_told(tmp_path: Path, source: Path, other: str) -> None:
    target, settings = tmp_path / "target", LAYERS
    run(source, target)
    if other == "settings":
        settings = Settings(layout="layers", dtype="float16", max_shard_bytes=10**7)
    elif other == "weights":
        synthetic.write(source, {name: t + 1 for name, t in synthetic.tensors().items()})
    else:
        (source / "tokenizer.model").write_bytes(b"another tokenizer")
    with pytest.raises(OutputError, match=r"holds another reshard.*--overwrite"):
        run(source, target, settings)
    report = run(source, target, settings, overwrite=True)
    assert not report.already_there
    assert_same(
        whole(target), whole(source) if other != "settings" else {n: t.half() for n, t in whole(source).items()}
    )
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock"}


def test_any_dtype_and_size_of_files_will_do_if_told(tmp_path: Path, source: Path) -> None:
    run(source, tmp_path / "target", Settings(layout="layers", dtype="float16", max_shard_bytes=10**6))
    assert run(source, tmp_path / "target", any_size=True).already_there
    with pytest.raises(OutputError, match="holds another reshard"):
        run(source, tmp_path / "target", RANKS, any_size=True)


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_reshard_did_not_make_is_never_replaced(tmp_path: Path, source: Path, what: str) -> None:
    target = tmp_path / "target"
    if what == "directory":
        target.mkdir()
        (target / "thesis.tex").write_text("all my work")
    else:
        target.write_text("all my work")
    with pytest.raises(OutputError, match="was not made by reshard"):
        run(source, target, overwrite=True)
    assert "all my work" in (target / "thesis.tex" if what == "directory" else target).read_text()


def test_what_stands_where_it_would_be_built_is_left_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "target.partial").mkdir()
    (tmp_path / "target.partial" / "thesis.tex").write_text("half my work")
    with pytest.raises(OutputError, match=r"target\.partial: .* was not made by reshard"):
        run(source, tmp_path / "target", overwrite=True)
    assert (tmp_path / "target.partial" / "thesis.tex").exists()


def test_the_place_of_a_disk_is_no_target(source: Path) -> None:
    with pytest.raises(OutputError, match="a disk is mounted there"):
        run(source, Path("/proc"), overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", "eval/results.json", ".gitignore", "link"])
def test_files_of_others_beside_an_older_reshard_are_not_removed_with_it(
    tmp_path: Path, source: Path, name: str
) -> None:
    own, half = tmp_path / "target" / name, Settings(layout="layers", dtype="float16", max_shard_bytes=10**7)
    run(source, tmp_path / "target", half)
    own.parent.mkdir(exist_ok=True)
    if name == "link":
        own.symlink_to(source)
    else:
        own.write_text("my work")
    with pytest.raises(OutputError, match=rf"files that reshard did not write: {name}\. Move them"):
        run(source, tmp_path / "target", overwrite=True)
    assert own.exists()
    assert run(source, tmp_path / "target", half).already_there
    own.rename(tmp_path / "mine")
    assert not run(source, tmp_path / "target", overwrite=True).already_there


def test_files_that_come_while_the_new_one_is_written_stay_too(tmp_path: Path, source: Path) -> None:
    notes = tmp_path / "target" / "notes.txt"
    run(source, tmp_path / "target")
    with pytest.raises(OutputError, match=r"did not write: notes\.txt"):
        run(source, tmp_path / "target", overwrite=True, on_progress=lambda *_: notes.write_text("my work"))
    assert notes.read_text() == "my work"


def test_a_setting_is_called_by_its_name_and_nobody_is_told_to_overwrite(tmp_path: Path, source: Path) -> None:
    run(source, tmp_path / "target", RANKS, synthetic.uneven_rules(synthetic.tensors()))
    with pytest.raises(OutputError, match=r"Remove it, or choose another path for the_path\.$"):
        run(source, tmp_path / "target", setting="the_path")
    (tmp_path / "target" / "model-shared-00001-of-00001.safetensors").unlink()
    with pytest.raises(OutputError, match=r"Remove .*/target, or choose another path for the_path\.$"):
        run(source, tmp_path / "target", setting="the_path")
    with pytest.raises(InvalidSettingError, match=r"^the_path="):
        run(source, source / "inside", setting="the_path")


def test_an_empty_directory_is_a_fine_target(tmp_path: Path, source: Path) -> None:
    (tmp_path / "target").mkdir()
    assert not run(source, tmp_path / "target").already_there


def test_a_file_that_was_lost_since_is_named(tmp_path: Path, source: Path) -> None:
    run(source, tmp_path / "target")
    (tmp_path / "target" / "model-00002-of-00004.safetensors").write_bytes(b"short")
    with pytest.raises(OutputError, match=r"model-00002-of-00004.*another size"):
        run(source, tmp_path / "target")
    assert not run(source, tmp_path / "target", overwrite=True).already_there


@pytest.mark.parametrize("target", ["source", "source/inside", "source/a/b", ".", "link/inside", "source/../source/x"])
def test_target_and_source_may_not_lie_in_each_other(tmp_path: Path, source: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(source)
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(InvalidSettingError, match="apart from the source"):
        run(source, tmp_path / target)
    assert sorted(path.name for path in source.iterdir()) == before


def test_a_source_with_the_name_of_the_unfinished_target_is_safe(tmp_path: Path, state: Any) -> None:
    source = synthetic.write(tmp_path / "target.partial", state)
    with pytest.raises(InvalidSettingError, match="apart from the source"):
        run(source, tmp_path / "target")
    assert_same(whole(source), state)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: None, CheckpointNotFoundError, "no such directory"),
        (lambda p: p.mkdir(), CheckpointError, "no weights"),
        (lambda p: synthetic.write(p, synthetic.tensors()) / "model-00002-of-00002.safetensors", None, "missing file"),
    ],
)
def test_a_bad_source_leaves_nothing(tmp_path: Path, make: Callable[[Path], Any], error: Any, says: str) -> None:
    made = make(tmp_path / "source")
    if made:
        made.unlink()
    with pytest.raises(error or CheckpointError, match=says):
        run(tmp_path / "source", tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}


def test_tensors_that_no_rule_knows_are_named(tmp_path: Path, source: Path, state: Any) -> None:
    rules = synthetic.uneven_rules(state)
    rules.pop("model.norm.weight")
    with pytest.raises(WeightsMismatchError, match=r"tensors that nothing took: model\.norm\.weight"):
        run(source, tmp_path / "target", RANKS, rules)


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, source: Path) -> None:
    with pytest.raises(CheckpointError, match="changed while it was read"):
        run(source, tmp_path / "target", on_progress=lambda *_: (source / "config.json").write_text("{}"))
    assert not (tmp_path / "target").exists()


def test_a_place_that_cannot_be_written_is_named(source: Path) -> None:
    with pytest.raises(OutputError, match="cannot write /proc/nowhere"):
        run(source, Path("/proc/nowhere/target"))


def test_a_disk_that_is_too_small_is_said_before_it_is_full(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"3\d\.\d kB are needed, 10\.0 kB are free"):
        run(source, tmp_path / "target")


# What follows needs processes that are limited, killed, or many.

CHILD = """
import sys, time
from pathlib import Path
from raydsinfer.checkpoints.resharding.reshard import reshard_files
from raydsinfer.checkpoints.resharding.manifest import Settings
def pause(done, total):
    print(done, flush=True)
    time.sleep({pause_s})
settings = Settings(layout="layers", max_shard_bytes=10**9)
report = reshard_files(Path(sys.argv[1]), Path(sys.argv[2]), settings, origin={{}}, on_progress=pause)
print(report.already_there, report.num_resumed, flush=True)
"""


def child(source: Path, target: Path, *, pause_s: float = 0.0, before: str = "") -> subprocess.Popen[str]:
    code = textwrap.dedent(before) + CHILD.format(pause_s=pause_s)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )


def killed_in_the_middle(source: Path, target: Path) -> Path:
    """Let a child begin and kill it when it has listed finished files; returns its unfinished directory."""
    process, partial = child(source, target, pause_s=0.1), target.with_name(f"{target.name}.partial")
    while not (partial / JOURNAL).is_file() or len((partial / JOURNAL).read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    return partial


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=8)
    source = synthetic.write(tmp_path / "source", state)
    killed_in_the_middle(source, tmp_path / "target")
    report = run(source, tmp_path / "target", Settings(layout="layers", max_shard_bytes=10**9))
    assert 2 <= report.num_resumed < report.num_files
    assert_same(whole(tmp_path / "target"), state)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target", "target.lock"}
    assert not (tmp_path / "target" / JOURNAL).exists()


@pytest.mark.parametrize("damage", ["flipped", "shortened", "journal", "other source", "other settings"])
def test_what_a_killed_run_left_is_not_trusted_blindly(tmp_path: Path, damage: str) -> None:
    state = synthetic.tensors(num_layers=8)
    source = synthetic.write(tmp_path / "source", state)
    settings = Settings(layout="layers", max_shard_bytes=10**9)
    # A run that ends after the first files, which is what a killed one leaves.
    with pytest.raises(RuntimeError, match="enough"):
        run(source, tmp_path / "target", settings, on_progress=_enough)
    partial = tmp_path / "target.partial"
    listed = [json.loads(line) for line in (partial / JOURNAL).read_text().splitlines()[1:]]
    assert listed
    first = partial / listed[0]["name"]
    if damage == "flipped":
        content = bytearray(first.read_bytes())
        content[-1] ^= 1
        first.write_bytes(content)
    elif damage == "shortened":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "journal":
        (partial / JOURNAL).write_text("{")
    elif damage == "other source":
        state = {name: tensor + 1 for name, tensor in state.items()}
        synthetic.write(source, state)
    else:
        settings = Settings(layout="layers", dtype="bfloat16", max_shard_bytes=10**9)
        state = {name: tensor.bfloat16() for name, tensor in state.items()}
    report = run(source, tmp_path / "target", settings)
    kept = len(listed) - 1 if damage in ("flipped", "shortened") else 0
    assert report.num_resumed == kept
    assert_same(whole(tmp_path / "target"), state)


def _enough(done: int, total: int) -> None:
    if done > total // 2:
        raise RuntimeError("enough")


def test_a_list_that_was_cut_off_counts_up_to_there(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", synthetic.tensors(num_layers=8))
    with pytest.raises(RuntimeError, match="enough"):
        run(source, tmp_path / "target", on_progress=_enough)
    journal = tmp_path / "target.partial" / JOURNAL
    whole_lines = journal.read_text()
    journal.write_text(whole_lines + '{"name": "model-0')
    assert run(source, tmp_path / "target").num_resumed == len(whole_lines.splitlines()) - 1


def test_two_at_once_write_it_once(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=4)
    source = synthetic.write(tmp_path / "source", state)
    children = [child(source, tmp_path / "target", pause_s=0.02) for _ in range(2)]
    said = [process.communicate() for process in children]
    assert [process.returncode for process in children] == [0, 0], said
    assert sorted(out.splitlines()[-1] for out, _ in said) == ["False 0", "True 0"]
    assert_same(whole(tmp_path / "target"), state)


LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
"""


def test_a_disk_that_takes_no_more_is_said_and_nothing_is_taken_for_whole(tmp_path: Path) -> None:
    state = synthetic.tensors(num_layers=2, width=32) | {"large": torch.rand(100_000)}
    source, target = synthetic.write(tmp_path / "source", state), tmp_path / "target"
    out, err = (process := child(source, target, before=LIMIT)).communicate()
    assert process.returncode == 1
    assert "OutputError: cannot write" in err, out
    assert "File too large" in err
    assert "kB are needed in all" in err
    assert "target.partial for the next run" in err
    assert not target.exists()
    assert "model-00001-of-00003.safetensors" not in [path.name for path in tmp_path.rglob("*")]
    report = run(source, target, Settings(layout="layers", max_shard_bytes=10**9))
    assert report.num_resumed < 3
    assert_same(whole(target), state)


def test_a_disk_that_fills_in_the_middle(tmp_path: Path) -> None:
    """On a real file system of four megabytes, which somebody else fills while the files are written."""
    state = synthetic.tensors(num_layers=4, width=100)
    source, disk = synthetic.write(tmp_path / "source", state), tmp_path / "disk"
    disk.mkdir()
    code = CHILD.format(pause_s=0.0).replace(
        "print(done, flush=True)",
        "Path(sys.argv[2]).with_name('other').write_bytes(bytes(3_500_000)) if done < 100_000 else None",
    )
    script = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$4" "$1/target"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), sys.executable, code, str(source)]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:  # noqa: S607
        pytest.skip("this system gives no file system of one's own")
    ended = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "MB are needed in all" in ended.stderr


MEMORY = """
import sys, threading, time
from pathlib import Path
import torch
from raydsinfer.checkpoints.resharding import reshard, work
from raydsinfer.checkpoints.resharding.manifest import Settings
from raydsinfer.checkpoints.tensors import WHOLE, Slice

def memory():
    status = Path("/proc/self/status").read_text()
    return {key: int(status.split(key + ":")[1].split()[0]) * 1024 for key in ("RssAnon", "RssFile")}

def cut(name):
    if name.endswith("up.weight"):
        return tuple(Slice(0, ((rank * 1024, (rank + 1) * 1024),)) for rank in range(2))
    return tuple(Slice(1, ((rank * 512, (rank + 1) * 512),)) for rank in range(2))

torch.ones(10).half()
before, peak, over = memory(), {"RssAnon": 0, "RssFile": 0}, threading.Event()
def watch():
    while not over.is_set():
        for key, value in memory().items():
            peak[key] = max(peak[key], value - before[key])
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
layout, dtype = sys.argv[3], sys.argv[4] if sys.argv[4] != "None" else None
settings = Settings(layout=layout, tp_size=2 if layout == "ranks" else None, dtype=dtype, max_shard_bytes=10**9)
names = {f"model.layers.{i}.{n}.weight" for i in range(16) for n in ("up", "down")}
rules = {name: cut(name) for name in names} | {"model.embed.weight": (WHOLE, WHOLE)}
reshard.reshard_files(Path(sys.argv[1]), Path(sys.argv[2]), settings, origin={}, rules=lambda: rules)
over.set()
watcher.join()
print(peak["RssAnon"], peak["RssFile"])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sixteen layers of 16 MiB and an embedding of 64 MiB, in two files."""
    up, down = torch.rand(2048, 1024), torch.rand(1024, 1024)
    directory = tmp_path_factory.mktemp("large")
    weight_map = {}
    for half in range(2):
        layers = range(8 * half, 8 * half + 8)
        part = {f"model.layers.{i}.up.weight": up.clone() for i in layers}
        part |= {f"model.layers.{i}.down.weight": torch.cat([down, down]) for i in layers}
        part |= {"model.embed.weight": torch.rand(16384, 1024)} if half else {}
        save_file(part, directory / f"model-{half}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{half}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(("layout", "dtype"), [("layers", "float16"), ("ranks", None)])
def test_memory_stays_flat(tmp_path: Path, large: Path, layout: str, dtype: str | None) -> None:
    words = [sys.executable, "-c", MEMORY, str(large), str(tmp_path / "target"), layout, str(dtype)]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert ended.returncode == 0, ended.stderr
    shutil.rmtree(tmp_path / "target")
    anonymous, mapped = map(int, ended.stdout.split())
    model_bytes = 16 * 16 * 2**20 + 64 * 2**20
    assert sum(path.stat().st_size for path in large.glob("*.safetensors")) > model_bytes
    assert anonymous < 64 * 2**20, "less than the largest layer, so far under twice of it"
    assert anonymous + mapped < model_bytes * 2 // 3, "pages of the source are given back on the way"


def test_a_cut_without_rules_is_not_made_up(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="'ranks' needs rules"):
        reshard_files(source, tmp_path / "target", RANKS, origin={})
