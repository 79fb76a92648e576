"""The directory that a gang loads from, as its settings ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.checkpoints.resharding.fused import FusedRules, FusedTensor, Region
from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig
from raydsinfer.engines import resharding
from raydsinfer.engines.prepared import prepared_directory
from raydsinfer.engines.resharding import checked_settings, reshard_directory
from raydsinfer.errors import InvalidSettingError, OutputError, UnsupportedError
from tests import synthetic

LAYER = "model.layers.0.attn.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "model", synthetic.tensors())


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules by hand: DeepSpeed knows no made-up models."""
    by_hand = synthetic.uneven_rules(synthetic.tensors())
    monkeypatch.setattr(resharding, "slice_rules_in_process", lambda *_, **__: by_hand)
    fused = FusedRules(model_type="ds_model", whole=[_fused("model.norm.weight")], by_rank=[[_fused(LAYER)]] * 3)
    monkeypatch.setattr(resharding, "fused_rules_in_process", lambda *_, **__: fused)


def _fused(name: str) -> FusedTensor:
    shape = tuple(synthetic.tensors()[name].shape)
    region = Region(source=name, part=WHOLE, offset=0, shape=shape, stride=(16, 1)[-len(shape) :])
    return FusedTensor(names=(name,), shape=shape, regions=(region,))


def test_nothing_asked_is_nothing_done(tmp_path: Path, model: Path) -> None:
    assert prepared_directory(model, EngineConfig(), 3) == model
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_layers_are_made_once(tmp_path: Path, model: Path) -> None:
    config = EngineConfig(reshard_checkpoint_path=str(tmp_path / "deep" / "layers"))
    directory = prepared_directory(model, config, 3)
    assert directory == tmp_path / "deep" / "layers"
    assert describe(directory).form == "safetensors"
    made = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert prepared_directory(model, config, 1) == directory
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == made


def test_ranks_are_made_for_the_gang(tmp_path: Path, model: Path) -> None:
    config = EngineConfig(save_mp_checkpoint_path=str(tmp_path / "ranks"))
    assert describe(prepared_directory(model, config, 3)).tp_size == 3
    says = r"holds another reshard.*Remove it, or choose another path for save_mp_checkpoint_path\.$"
    with pytest.raises(OutputError, match=says):
        prepared_directory(model, config, 2)


def test_kernels_have_deepspeeds_own_form_made_for_them(tmp_path: Path, model: Path) -> None:
    config = EngineConfig(save_mp_checkpoint_path=str(tmp_path / "ranks"), kernel_inject=True)
    description = describe(prepared_directory(model, config, 3))
    assert (description.form, description.tp_size) == ("deepspeed", 3)
    autotp = EngineConfig(save_mp_checkpoint_path=str(tmp_path / "ranks"))
    with pytest.raises(OutputError, match="or made with other settings"):
        prepared_directory(model, autotp, 3)


def test_kernels_take_what_was_made_for_autotp(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = (Slice(0, ((0, 8),)), Slice(0, ((8, 16),)))
    even = {name: halves if name == LAYER else (WHOLE, WHOLE) for name in synthetic.tensors()}
    monkeypatch.setattr(resharding, "slice_rules_in_process", lambda *_, **__: even)
    settings = {"save_mp_checkpoint_path": str(tmp_path / "ranks")}
    made = prepared_directory(model, EngineConfig(**settings), 2)
    assert prepared_directory(model, EngineConfig(**settings, kernel_inject=True), 2) == made
    assert prepared_directory(made, EngineConfig(kernel_inject=True), 2) == made
    assert describe(made).form == "ranks"


def test_kernels_refuse_what_autotp_cut_unequally(tmp_path: Path, model: Path) -> None:
    settings = {"save_mp_checkpoint_path": str(tmp_path / "ranks")}
    made = prepared_directory(model, EngineConfig(**settings), 3)
    says = r"attn.weight into \(3, 16\) and \(9, 16\) and \(5, 16\).*--layout deepspeed --tp 3\.$"
    for directory, config in (
        (model, EngineConfig(**settings, kernel_inject=True)),
        (made, EngineConfig(kernel_inject=True)),
    ):
        with pytest.raises(UnsupportedError, match=says):
            prepared_directory(directory, config, 3)


@pytest.mark.parametrize(("dtype", "written"), [("float16", "float16"), ("auto", "bfloat16")])
def test_kernels_have_weights_of_several_dtypes_written_in_one(tmp_path: Path, dtype: str, written: str) -> None:
    state = synthetic.tensors(dtype="bfloat16")
    state["model.norm.weight"] = state["model.norm.weight"].float()
    mixed = synthetic.write(tmp_path / "mixed", state)
    (mixed / "config.json").write_text('{"dtype": "bfloat16"}')
    config = EngineConfig(save_mp_checkpoint_path=str(tmp_path / "ranks"), kernel_inject=True, dtype=dtype)
    tensors = describe(prepared_directory(mixed, config, 3)).tensors.values()
    assert {tensor.dtype for tensor in tensors} == {written}


def test_ranks_are_made_from_layers_if_both_are_asked_for(tmp_path: Path, model: Path) -> None:
    paths = {"reshard_checkpoint_path": str(tmp_path / "l"), "save_mp_checkpoint_path": str(tmp_path / "r")}
    assert prepared_directory(model, EngineConfig(**paths), 3) == tmp_path / "r"
    assert describe(tmp_path / "l").form == "safetensors"
    assert describe(tmp_path / "r").form == "ranks"


def test_one_that_was_made_by_hand_will_do(tmp_path: Path, model: Path) -> None:
    settings = checked_settings("ranks", 3, "float16", "1MB")
    reshard_directory(model, tmp_path / "ranks", settings, origin={})
    config = EngineConfig(save_mp_checkpoint_path=str(tmp_path / "ranks"))
    tensors = describe(prepared_directory(model, config, 3)).tensors.values()
    assert {tensor.dtype for tensor in tensors} == {"float16"}


def test_settings_that_came_along_with_what_they_made(tmp_path: Path, model: Path) -> None:
    config = EngineConfig(reshard_checkpoint_path=str(tmp_path / "layers"))
    directory = prepared_directory(model, config, 3)
    assert prepared_directory(directory, config, 3) == directory


def test_a_touched_configuration_is_the_same_model(tmp_path: Path, model: Path) -> None:
    config = EngineConfig(reshard_checkpoint_path=str(tmp_path / "layers"))
    directory = prepared_directory(model, config, 3)
    (model / "config.json").touch()
    assert prepared_directory(model, config, 3) == directory


def test_a_path_inside_the_model_is_refused(model: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"^reshard_checkpoint_path=.* apart from the source"):
        prepared_directory(model, EngineConfig(reshard_checkpoint_path=str(model / "layers")), 3)
