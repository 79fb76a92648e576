"""What decides on whether an engine was checked: whatever may change what it computes."""

import json

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.identity import engine_identity, reference_identity

CANARIES = [Canary(name="single", token_ids=(5,), num_new_tokens=1)]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def reference(model, dtype="float16"):
    return reference_identity(model, dtype=dtype, vocab_size=259, canaries=CANARIES)


def engine(model, rung="static AutoTP", context=None, **config):
    return engine_identity(reference(model), model, model, rung, EngineConfig(**config), context or RankContext())


def test_content_and_not_place_decides(model, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert (reference(copy), engine(copy)) == (reference(model), engine(model))
    (copy / "model.safetensors").write_bytes(b"WEIGHTS")
    assert reference(copy)["model"] != reference(model)["model"]
    assert engine(copy) != engine(model)


def test_what_changes_the_engine_is_another(model):
    own = engine(model)
    assert engine(model, rung="continuous AutoTP") != own
    assert engine(model, context=RankContext(world_size=2)) != own
    for changed in ({"max_tokens": 77}, {"max_batch_size": 2}, {"use_meta_tensor": False}, {"attention": "sdpa"}):
        assert engine(model, **changed) != own, changed


def test_what_does_not_is_the_same(model):
    for changed in ({"seed": 3}, {"verify": "always"}, {"strict": True}, {"golden": "/g"}, {"hf_home": "/h"}):
        assert engine(model, **changed) == engine(model), changed
