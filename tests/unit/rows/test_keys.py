"""Keys of rows: what changes them, what does not, and that no cell can break them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.config import EchoFault, EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import CheckpointError
from raydsinfer.rows.keys import KEY_BYTES, RunIdentity, row_key, row_keys, run_identity, settings_digest
from raydsinfer.rows.request import Row

IDENTITY = RunIdentity(settings={"model_content": "abc"}, seed=1)
CALL = GenerationConfig()
CHAT = [{"role": "user", "content": "Hello"}]
ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def key(row: Row, call: GenerationConfig = CALL, identity: RunIdentity = IDENTITY, distinct: str = "") -> bytes:
    return row_key(row, call, identity, distinct)


@settings(deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_any_cells_have_a_key_and_the_same_one_again(prompt: Any, messages: Any, generation: Any) -> None:
    row = Row(prompt=prompt, messages=messages, generation=generation)
    assert len(key(row)) == KEY_BYTES
    assert key(row) == key(row) == row_keys([Row(prompt="other"), row], CALL, IDENTITY)[1]


@settings(deadline=None)
@given(st.text(), st.text(), st.text(max_size=3), st.text(max_size=3))
def test_a_prompt_and_what_sets_it_apart_decide(one: str, other: str, apart: str, from_it: str) -> None:
    same = key(Row(prompt=one), distinct=apart) == key(Row(prompt=other), distinct=from_it)
    assert same == ((one, apart) == (other, from_it))


@settings(deadline=None)
@given(st.text(st.characters(codec=None), max_size=5), st.text(st.characters(codec=None), max_size=5))
def test_half_surrogates_are_texts_too(one: str, other: str) -> None:
    assert (key(Row(prompt=one)) == key(Row(prompt=other))) == (one == other)


def test_a_key_is_the_same_in_every_process_and_version() -> None:
    row = Row(prompt="Hello", generation={"max_new_tokens": 5, "stop_strings": ["b", "a"]})
    code = (
        "from raydsinfer.rows.keys import *; from raydsinfer.rows.request import Row;"
        "from raydsinfer.config import GenerationConfig;"
        "row = Row(prompt='Hello', generation={'stop_strings': ['b', 'a'], 'max_new_tokens': 5});"
        "print(row_key(row, GenerationConfig(), RunIdentity(settings={'model_content': 'abc'}, seed=1)).hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key(row).hex()


@pytest.mark.parametrize("missing", [None, math.nan, np.nan, "", "  ", {}, "{}", {"seed": None}])
def test_settings_that_a_row_does_not_give(missing: object) -> None:
    assert key(Row(prompt="a", generation=missing)) == key(Row(prompt="a"))


def test_settings_of_row_and_call_are_one() -> None:
    long = GenerationConfig(max_new_tokens=99)
    own: dict[str, Any] = {"max_new_tokens": 99}
    assert key(Row(prompt="a", generation=own)) == key(Row(prompt="a"), long)
    assert key(Row(prompt="a", generation=json.dumps(own))) == key(Row(prompt="a"), long)
    assert key(Row(prompt="a", generation={"max_new_tokens": 99.0, "top_k": None})) == key(Row(prompt="a"), long)
    # A row that says all itself stays when the call's changes.
    assert key(Row(prompt="a", generation=own), GenerationConfig(max_new_tokens=7)) == key(Row(prompt="a"), long)
    assert key(Row(prompt="a"), long) != key(Row(prompt="a"))
    assert key(Row(prompt="a", generation={"nonsense": 1})) != key(Row(prompt="a"))


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({"seed": 5}, False),
        ({"temperature": 0.5}, False),
        ({"length_penalty": 2.0}, False),
        ({"do_sample": True}, True),
        ({"num_beams": 2}, True),
        ({"max_new_tokens": 49}, True),
        ({"min_new_tokens": 1}, True),
        ({"repetition_penalty": 1.5}, True),
        ({"stop_strings": "x"}, True),
        ({"return_full_text": True}, True),
        ({"include_stop_str_in_output": True}, True),
        ({"return_logprobs": True}, True),
        ({"num_beams": 3, "num_return_sequences": 2}, True),
    ],
)
def test_settings_count_where_they_change_the_answer(said: dict[str, Any], counts: bool) -> None:
    changed = GenerationConfig(**said)
    assert (key(Row(prompt="a"), changed) != key(Row(prompt="a"))) == counts
    assert (settings_digest(IDENTITY, changed) != settings_digest(IDENTITY, CALL)) == counts


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "typical_p", "seed"])
def test_sampling_settings_count_where_rows_are_sampled(name: str) -> None:
    values = {"temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.5, "typical_p": 0.5, "seed": 7}
    sampled = GenerationConfig(do_sample=True)
    assert key(Row(prompt="a"), sampled.replaced({name: values[name]})) != key(Row(prompt="a"), sampled)


def test_every_setting_is_in_the_key() -> None:
    """A setting that is added to `GenerationConfig` counts, or is thought about here."""
    everything = GenerationConfig(do_sample=True, num_beams=2)
    others: dict[str, Any] = {
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "do_sample": False,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.5,
        "typical_p": 0.5,
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 3,
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "num_return_sequences": 2,
        "stop_strings": "x",
        "seed": 7,
        "return_full_text": True,
        "include_stop_str_in_output": True,
        "return_logprobs": True,
    }
    assert set(others) == set(GenerationConfig.model_fields)
    keys = {name: key(Row(prompt="a"), everything.replaced({name: other})) for name, other in others.items()}
    assert len({*keys.values(), key(Row(prompt="a"), everything)}) == len(others) + 1


def test_the_engines_seed_counts_for_sampled_rows_without_their_own() -> None:
    other = RunIdentity(settings=IDENTITY.settings, seed=2)
    sampled, seeded = GenerationConfig(do_sample=True), GenerationConfig(do_sample=True, seed=2)
    assert key(Row(prompt="a"), sampled) != key(Row(prompt="a"), sampled, other)
    assert key(Row(prompt="a"), seeded) == key(Row(prompt="a"), sampled, other)
    assert key(Row(prompt="a")) == key(Row(prompt="a"), CALL, other)


def test_stop_strings_are_a_set() -> None:
    same = (["a", "b"], ["b", "a"], ["b", "a", "a"])
    assert len({key(Row(prompt="p"), GenerationConfig(stop_strings=stops)) for stops in same}) == 1
    assert key(Row(prompt="p"), GenerationConfig(stop_strings="a")) == key(
        Row(prompt="p"), GenerationConfig(stop_strings=["a"])
    )


def test_a_conversation_is_what_it_says_and_hides_the_prompt() -> None:
    plain = key(Row(messages=CHAT))
    assert key(Row(messages=json.dumps(CHAT))) == plain
    assert key(Row(messages=np.array(CHAT))) == plain
    assert key(Row(messages=[{**CHAT[0], "name": None}])) == plain
    assert key(Row(prompt="looked at by nobody", messages=CHAT)) == plain
    assert key(Row(prompt="Hello")) != plain
    assert key(Row(messages=[{"role": "system", "content": "Hello"}])) != plain
    assert key(Row(messages=[*CHAT, *CHAT])) != plain
    assert key(Row(messages="Hello")) != key(Row(prompt="Hello"))


def test_the_identity_is_in_every_key() -> None:
    other = RunIdentity(settings={"model_content": "abd"}, seed=1)
    assert key(Row(prompt="a"), CALL, other) != key(Row(prompt="a"))
    moved = RunIdentity(settings=IDENTITY.settings, model="/elsewhere", seed=1)
    assert key(Row(prompt="a"), CALL, moved) == key(Row(prompt="a"))


def identity(model: object, **settings: Any) -> RunIdentity:
    return run_identity(EngineSpec(model=str(model), config=EngineConfig(**settings)))


def model_at(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"vocab_size": 10}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(300_000))
    return directory


def test_the_identity_of_a_model_is_its_files(tmp_path: Path) -> None:
    model, same = model_at(tmp_path / "a"), model_at(tmp_path / "b")
    before = identity(model)
    assert before.digest == identity(same).digest
    assert before.model == str(model)
    (same / "raydsinfer.json").write_text('{"engine_config": {"max_batch_size": 3}}')
    (same / "README.md").write_text("words")
    assert before.digest == identity(same).digest
    for name, content in (
        ("tokenizer.json", b'{"a": 1}'),
        ("generation_config.json", b"{}"),
        ("model.safetensors", bytes(299_999) + b"\1"),
    ):
        digest = identity(same).digest
        (same / name).write_bytes(content)
        assert identity(same).digest != digest, name


def test_settings_of_the_engine_count_where_they_change_texts(tmp_path: Path) -> None:
    model = model_at(tmp_path / "a")
    plain = identity(model).digest
    for said in ({"dtype": "float16"}, {"max_tokens": 99}, {"kernel_inject": True}, {"trust_remote_code": True}):
        assert identity(model, **said).digest != plain, said
    for said in (
        {"max_batch_size": 3},
        {"batching": "static"},
        {"gpu_memory_utilization": 0.5},
        {"seed": 3},
        {"hf_home": "/x"},
        {"attention": "sdpa"},
        {"reshard_checkpoint_path": "/x"},
    ):
        assert identity(model, **said).digest == plain, said
    # Without a word on it, the device decides on the data type.
    spec = EngineSpec(model=str(model), config=EngineConfig())
    assert run_identity(spec, use_gpu=True).digest != run_identity(spec, use_gpu=False).digest
    assert run_identity(spec, use_gpu=False).digest == identity(model, dtype="float32").digest
    int8 = EngineSpec(model=spec.model, config=EngineConfig(dtype="int8"))
    digests = {run_identity(one, use_gpu=use_gpu).digest for one in (spec, int8) for use_gpu in (False, True)}
    assert len(digests) == 4, "beside int8 weights activations have the dtype of the device"


def test_an_echo_engine_has_no_model_and_its_faults_do_not_count() -> None:
    plain = identity("any text", engine="echo")
    assert plain.digest == identity("other", engine="echo", echo_delay_s=1.0, echo_fault=EchoFault()).digest


def test_secrets_are_not_kept() -> None:
    shown = identity("s3://user:secret@bucket/model?token=secret", engine="echo")
    assert "secret" not in repr(shown)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        identity(f"file://{tmp_path}/nothing")
