"""What DeepSpeed itself writes for its ranks: loaded by gangs of any size, with transformers' tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch
from raydsinfer.errors import RaydsinferError, UnsupportedError, WeightsMismatchError
from tests.models import plain_greedy, prompts, write_tiny_model
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]  # several process groups, one after the other

REQUESTS = prompts([9, 4, 23])
NEW_TOKENS = 12
QUANTISED = "model.decoder.layers.0.norm_w"


def save(context: Any, model: Path, target: Path) -> None:
    from raydsinfer.engines import deepspeed_setup

    deepspeed_setup.choose_accelerator(context)
    deepspeed_setup.prepare(context, kernels=True)
    import deepspeed
    from transformers import AutoModelForCausalLM

    from raydsinfer.engines.deepspeed_kernels import adapters

    whole = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    adapters.make_ready(whole)
    with adapters.replacing(whole):
        deepspeed.init_inference(
            whole,
            dtype=torch.float32,
            tensor_parallel={"tp_size": context.world_size},
            replace_with_kernel_inject=True,
            save_mp_checkpoint_path=str(target),
        )


def why_not(context: Any, model: Path, **settings: Any) -> RaydsinferError:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    config = EngineConfig(**{"kernel_inject": True, "dtype": "float32", "max_tokens": 64, "verify": "off", **settings})
    with pytest.raises(RaydsinferError) as caught:
        DeepSpeedEngine(EngineSpec(model=str(model), config=config), context).load()
    return caught.value


def answers(context: Any, model: Path, **settings: Any) -> tuple[list[list[int]], bool]:
    """Greedy tokens, and whether as many bytes arrived as the model has."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    config = EngineConfig(kernel_inject=True, dtype="float32", max_tokens=64, verify="off", **settings)
    engine = DeepSpeedEngine(EngineSpec(model=str(model), config=config), context)
    report = engine.load()
    batch = GenerateBatch(prompts=REQUESTS, generation=GenerationConfig(max_new_tokens=NEW_TOKENS))
    tokens = [list(answer[0].token_ids) for answer in engine.generate(batch)]
    return tokens, report.filled.bytes_done == report.filled.bytes_total == report.parameter_bytes


def refusals(context: Any, cut: Path, other: Path) -> list[RaydsinferError]:
    return [why_not(context, cut, kernel_inject=False), why_not(context, other)]


def made_and_answers(context: Any, model: Path, target: Path) -> Any:
    return answers(context, model, save_mp_checkpoint_path=str(target))


def answers_of_deepspeed(context: Any, model: Path, index: Path) -> list[list[int]]:
    """Greedy tokens of a model that DeepSpeed's own loader filled."""
    from raydsinfer.engines import deepspeed_setup
    from raydsinfer.engines import model as models
    from raydsinfer.engines.deepspeed_kernels import adapters
    from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache

    deepspeed_setup.choose_accelerator(context)
    deepspeed_setup.prepare(context, kernels=True)
    import deepspeed

    torch.set_grad_enabled(False)
    model_config = models.read_config(model)
    model_config._attn_implementation = "eager"
    with torch.device("meta"):
        empty = models.build(model_config, torch.float32)
    filled = deepspeed.init_inference(
        empty,
        dtype=torch.float32,
        tensor_parallel={"tp_size": context.world_size},
        replace_with_kernel_inject=True,
        max_out_tokens=64,
        checkpoint=str(index),
    ).module
    adapters.adapt(filled, model_config, on_cpu=True)
    found = []
    for request in REQUESTS:
        filled.reset_cache()
        ids = torch.tensor([request])
        arguments = {"attention_mask": torch.ones_like(ids), "past_key_values": CountingCache()}
        out = filled.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, **arguments)
        found.append(out[0, len(request) :].tolist())
    return found


def of_rank(directory: Path, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    description = describe(directory)
    with TensorReader(description, rank=rank, tp_size=world_size) as reader:
        return {name: reader.read(name).clone() for name in description.tensors}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("presharded")
    return write_tiny_model("opt", base / "model", tokenizer=False, num_hidden_layers=2)


def written(model: Path, world_size: int) -> Path:
    """What DeepSpeed writes of a model for so many ranks."""
    target = model.with_name(f"for {world_size}")
    run_ranks(world_size, save, model, target)
    shutil.copy(model / "config.json", target)
    return target


@pytest.fixture(scope="module")
def for_one(model: Path) -> Path:
    return written(model, 1)


@pytest.fixture(scope="module")
def for_two(model: Path) -> Path:
    return written(model, 2)


@pytest.fixture(scope="module")
def other(for_two: Path) -> Path:
    """What DeepSpeed wrote, with another model's configuration and an int8 tensor."""
    target = for_two.with_name("other")
    shutil.copytree(for_two, target)
    for path in target.glob("tp_*.pt"):
        state = torch.load(path)
        quantised = {name: tensor.to(torch.int8) for name, tensor in state.items() if name == QUANTISED}
        torch.save({**state, **quantised}, path)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "vocab_size": 300}))
    return target


def test_what_does_not_fit_is_said(for_two: Path, other: Path) -> None:
    autotp, misfit = run_ranks(2, refusals, for_two, other)
    assert isinstance(autotp, UnsupportedError)
    assert "DeepSpeed wrote it for 2 ranks of its fused layers" in str(autotp)
    assert str(autotp).endswith("Use kernel_inject=True, or the original weights.")
    assert isinstance(misfit, WeightsMismatchError)
    assert "model.decoder.layers.1.attention.attn_qkvw" in misfit.nothing_took
    assert misfit.wrong_shape["model.decoder.embed_tokens.weight"] == "(259, 64) instead of (300, 64)"
    assert misfit.wrong_dtype == {QUANTISED: "int8"}
    assert "Check config.json" in str(misfit)


# As it was cut, joined, and cut anew.
@pytest.mark.parametrize(("stored", "world_size"), [("for_two", 2), ("for_two", 1), ("for_one", 2)])
def test_gangs_of_any_size_load_it(model: Path, stored: str, world_size: int, request: pytest.FixtureRequest) -> None:
    tokens, all_arrived = run_ranks(world_size, answers, request.getfixturevalue(stored))
    assert tokens == plain_greedy(model, REQUESTS, NEW_TOKENS)
    assert all_arrived


@pytest.fixture(scope="module")
def made(model: Path) -> tuple[Path, tuple[list[list[int]], bool]]:
    """What a gang writes at its first start, and what it answers."""
    target = model.with_name("made")
    return target, run_ranks(2, made_and_answers, model, target)


def test_a_gang_writes_what_deepspeed_would(model: Path, for_two: Path, made: Any) -> None:
    target, (tokens, all_arrived) = made
    assert tokens == plain_greedy(model, REQUESTS, NEW_TOKENS)
    assert all_arrived
    assert describe(target).form == "deepspeed"
    for rank in range(2):
        ours, theirs = of_rank(target, rank, 2), of_rank(for_two, rank, 2)
        assert ours.keys() == theirs.keys()
        assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []


def test_deepspeeds_own_loader_reads_what_a_gang_wrote(model: Path, made: Any) -> None:
    index = made[0] / "ds_inference_config.json"
    assert run_ranks(2, answers_of_deepspeed, model, index) == plain_greedy(model, REQUESTS, NEW_TOKENS)


def test_bloom_whose_heads_have_query_key_and_value_side_by_side(tmp_path: Path) -> None:
    """As BLOOM-176b was published for DeepSpeed: each rank has whole heads, and joining them must keep their order."""
    model = write_tiny_model("bloom", tmp_path / "model", tokenizer=False, spread=0.3, hidden_size=96, n_head=6)
    stored = written(model, 2)
    assert json.loads((stored / "ds_inference_config.json").read_text())["parallelization"] == "tp"
    for world_size in (2, 1):
        tokens, all_arrived = run_ranks(world_size, answers, stored)
        assert tokens == plain_greedy(model, REQUESTS, NEW_TOKENS), f"{world_size} ranks"
        assert all_arrived
