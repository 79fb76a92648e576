"""Settings are frozen, complete and strict; wrong ones are answered with the next step."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.config import EchoFault, EngineConfig, GangConfig, GenerationConfig, Settings
from raydsinfer.errors import InvalidSettingError, RaydsinferError, UnknownSettingError, UnsupportedError

CLASSES = [EchoFault, EngineConfig, GangConfig, GenerationConfig]

# Everything that the ancestor's script could be told, and where it lives: a setting, or a hint.
ANCESTOR_SETTINGS = [
    "hf_home",
    "save_mp_checkpoint_path",
    "dtype",
    "ds_inference",
    "replace_method",
    "max_tokens",
    "use_meta_tensor",
    "use_cache",
    "reshard_checkpoint_path",
]
ANCESTOR_HINTS = {
    "name": "DeepSpeedCheckpoint.from_pretrained",
    "checkpoint_path": "DeepSpeedCheckpoint.from_pretrained",
    "num_worker_groups": "max_scoring_workers",
    "num_gpus_per_worker_group": "num_workers",
    "batch_size": "BatchPredictor.predict",
    "use_kernel": "kernel_inject",
}


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_valid_and_frozen(cls: type[Settings]) -> None:
    defaults = cls()
    name = next(iter(cls.model_fields))
    with pytest.raises(Exception, match="frozen"):
        setattr(defaults, name, getattr(defaults, name))


@pytest.mark.parametrize("cls", CLASSES)
def test_each_setting_is_documented(cls: type[Settings]) -> None:
    documented = re.findall(r"^    (\w+)(?:, \w+)*: ", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    assert documented == list(cls.model_fields)


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_survive_pickling(cls: type[Settings]) -> None:
    assert pickle.loads(pickle.dumps(cls())) == cls()  # noqa: S301


def test_unknown_name_gives_the_nearest_right_one() -> None:
    with pytest.raises(UnknownSettingError, match="Did you mean 'max_tokens'") as caught:
        EngineConfig(max_token=5)
    assert (caught.value.name, caught.value.where) == ("max_token", "EngineConfig")
    assert "kernel_inject" in caught.value.known


@pytest.mark.parametrize("name", ANCESTOR_SETTINGS)
def test_settings_of_the_ancestor_have_a_home(name: str) -> None:
    assert name in EngineConfig.model_fields


@pytest.mark.parametrize(("name", "where"), ANCESTOR_HINTS.items())
def test_other_settings_of_the_ancestor_are_answered_with_their_new_home(name: str, where: str) -> None:
    with pytest.raises(UnknownSettingError) as caught:
        EngineConfig(**{name: 1})
    assert where in caught.value.hint
    assert where in str(caught.value)


@pytest.mark.parametrize("name", ["max_length", "pad_token_id", "synced_gpus", "streamer"])
def test_generation_settings_that_are_ours_to_decide_say_so(name: str) -> None:
    with pytest.raises(UnknownSettingError) as caught:
        GenerationConfig(**{name: 1})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (EngineConfig, "dtype", "float8"),
        (EngineConfig, "max_tokens", 1),
        (EngineConfig, "max_tokens", "1024"),
        (EngineConfig, "max_tokens", 10.0),
        (EngineConfig, "max_batch_size", 0),
        (EngineConfig, "kernel_inject", "yes"),
        (EngineConfig, "replace_method", "old"),
        (EngineConfig, "seed", -1),
        (EngineConfig, "seed", 2**63),
        (EngineConfig, "echo_delay_s", -0.1),
        (GenerationConfig, "max_new_tokens", 0),
        (GenerationConfig, "max_new_tokens", True),
        (GenerationConfig, "do_sample", 1),
        (GenerationConfig, "temperature", 0.0),
        (GenerationConfig, "temperature", float("nan")),
        (GenerationConfig, "top_p", 1.1),
        (GenerationConfig, "top_p", 0.0),
        (GenerationConfig, "top_k", -1),
        (GenerationConfig, "stop_strings", [1]),
        (GenerationConfig, "num_return_sequences", 0),
        (GangConfig, "lease_ttl_s", 0.0),
        (EchoFault, "action", "explode"),
    ],
)
def test_wrong_type_or_range_names_setting_and_value(cls: type[Settings], name: str, value: Any) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        cls(**{name: value})
    assert caught.value.name.split(".")[0] == name
    assert caught.value.expected
    assert name in str(caught.value)


def test_unknown_dtype_lists_the_known_ones() -> None:
    with pytest.raises(InvalidSettingError, match="'auto', 'float32', 'float16', 'bfloat16' or 'int8'"):
        EngineConfig(dtype="float8")  # type: ignore[arg-type]


def test_int8_goes_without_the_kernels_of_deepspeed() -> None:
    assert EngineConfig(dtype="int8").dtype == "int8"
    with pytest.raises(UnsupportedError, match="DeepSpeed refuses int8") as caught:
        EngineConfig(dtype="int8", kernel_inject=True)
    assert "kernel_inject=False" in caught.value.instead


@pytest.mark.parametrize("name", ["save_mp_checkpoint_path", "reshard_checkpoint_path", "golden"])
def test_paths_on_other_nodes_are_absolute(name: str) -> None:
    for path in ("/x", "~/x"):
        assert getattr(EngineConfig(**{name: path}), name) == path
    for path in ("x", "./x", "../x", "", "s3://bucket/x"):
        with pytest.raises(InvalidSettingError, match=f"{name}='{path}'.*an absolute path.*on the nodes of the gang"):
            EngineConfig(**{name: path})


@pytest.mark.parametrize("name", ["ds_inference", "use_meta_tensor"])
def test_parts_of_weights_need_a_model_in_parts(name: str) -> None:
    EngineConfig(save_mp_checkpoint_path="/x")
    EngineConfig(reshard_checkpoint_path="/x", **{name: False})
    with pytest.raises(InvalidSettingError, match=f"{name}=False.*expected True with save_mp_checkpoint_path"):
        EngineConfig(save_mp_checkpoint_path="/x", **{name: False})


def test_kernels_need_deepspeed() -> None:
    with pytest.raises(InvalidSettingError, match="False when ds_inference is off"):
        EngineConfig(kernel_inject=True, ds_inference=False)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"min_new_tokens": 60}, "min_new_tokens"),
        ({"stop_strings": ["a", ""]}, "stop_strings"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences"),
    ],
)
def test_generation_settings_that_contradict_each_other(values: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        GenerationConfig(**values)
    assert caught.value.name == name


def test_stop_list_is_a_list_whatever_was_given() -> None:
    assert GenerationConfig().stop_list == []
    assert GenerationConfig(stop_strings="END").stop_list == ["END"]
    assert GenerationConfig(stop_strings=["a", "b"]).stop_list == ["a", "b"]


def test_replaced_changes_some_values_and_checks_them() -> None:
    first = GenerationConfig(max_new_tokens=7, do_sample=True)
    assert first.replaced({"top_p": 0.5}) == GenerationConfig(max_new_tokens=7, do_sample=True, top_p=0.5)
    with pytest.raises(UnknownSettingError):
        first.replaced({"top_q": 0.5})
    with pytest.raises(InvalidSettingError):
        first.replaced({"min_new_tokens": 8})


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": st.one_of(st.integers(), st.text(), st.none(), st.floats()),
            "temperature": st.floats(),
            "top_k": st.one_of(st.integers(), st.booleans()),
            "stop_strings": st.one_of(st.none(), st.text(), st.lists(st.text()), st.integers()),
            "seed": st.one_of(st.none(), st.integers()),
            "max_lenght": st.integers(),
        },
    )
)
def test_any_values_are_taken_as_they_are_or_refused_by_our_errors(values: dict[str, Any]) -> None:
    try:
        config = GenerationConfig(**values)
    except RaydsinferError as error:
        explained = str(error)
    else:
        explained = "taken" if {name: getattr(config, name) for name in values} == values else ""
    assert explained


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        (name, f"RAYDSINFER_{name.upper()}")
        for name in ("placement_timeout_s", "start_timeout_s", "call_timeout_s", "lease_ttl_s")
    ],
)
def test_deadlines_come_from_the_call_then_the_environment(
    setting: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variable in (GangConfig.__doc__ or "")
    monkeypatch.setenv(variable, "12.5")
    assert getattr(GangConfig(), setting) == 12.5
    assert getattr(GangConfig(**{setting: 3.0}), setting) == 3.0


@pytest.mark.parametrize("value", ["30m", "-5", "nan", "0", "inf"])
def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RAYDSINFER_CALL_TIMEOUT_S", value)
    with pytest.raises(InvalidSettingError, match="RAYDSINFER_CALL_TIMEOUT_S"):
        GangConfig()


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "num_beams": 2, "num_return_sequences": 3},
        {"num_return_sequences": 2},
        {"temperature": 1e-42, "do_sample": True},
        {"temperature": float("inf"), "do_sample": True},
        {"length_penalty": float("nan")},
    ],
)
def test_settings_that_an_engine_would_fail_on(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettingError):
        GenerationConfig(**settings)


def test_settings_within_settings_have_names() -> None:
    with pytest.raises(InvalidSettingError, match=r"echo_fault=.* cannot be used: expected settings by name"):
        EngineConfig(echo_fault={0: None})
