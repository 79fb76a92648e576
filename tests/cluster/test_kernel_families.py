"""Kernel injection on real process groups, on the PyTorch versions of the kernels, family by family.

A process of its own for each engine: DeepSpeed keeps state in its modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext
from raydsinfer.engines.families import FAMILIES
from raydsinfer.engines.resharding import checked_settings, reshard_directory
from raydsinfer.errors import EngineError
from raydsinfer.groups.worker_group import WorkerGroup
from tests.engine_cases import NEW_TOKENS, Case, answer, fail_to_load, tokens
from tests.models import plain_greedy, prompts, tiny_model, write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS = 96
# What a family's kernels have to get right beside its usual form.
VARIANTS: dict[str, dict[str, Any]] = {
    "opt": {"activation_function": "gelu"},
    "gpt2": {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"},
    "gpt_neo": {"window_size": 5},
    "gptj": {"rotary_dim": 16},
    "gpt_neox": {"use_parallel_residual": False, "rotary_emb_base": 500, "hidden_act": "gelu_new"},
    "llama": {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    # Slopes of 6 heads are not those of 8 or 4 heads: those past a power of two come from another series.
    "bloom": {"hidden_size": 96, "n_head": 6, "tie_word_embeddings": False},
}
# Weights that were cut for AutoTP: its rows of query, key and value stand head by head, those of the kernels do not.
CUT_FOR_AUTOTP = "gpt_neox"
# Weights that the gang writes at its start, in DeepSpeed's own form: here with shared heads.
WRITTEN_FOR_KERNELS = "llama"
# No automatic tensor parallelism: "auto" takes the kernels, on CPUs too.
NOTHING_ELSE_RUNS = ("gpt2", 2)
WITH_KERNELS = [name for name, family in FAMILIES.items() if family.kernels]


def batches() -> list[tuple[list[list[int]], dict[str, Any]]]:
    """Padded, single, the longest prompt that there can be, one of a single token, and long answers."""
    padded, longest = prompts([12, 5, 9]), prompts([MAX_TOKENS - 1], seed=3)
    return [
        (padded, {}),
        (padded[1:2], {}),
        (longest, {"max_new_tokens": 1}),
        (prompts([1], seed=4), {}),
        (prompts([60, 1, 33], seed=5), {"max_new_tokens": MAX_TOKENS - 60}),
    ]


def answer_and_spare_bytes(context: RankContext, case: Case) -> tuple[Case, int]:
    """On each rank: generate a case's batches, and look what DeepSpeed's layers keep to join weights in."""
    from deepspeed.ops.transformer.inference.ds_attention import DeepSpeedSelfAttention
    from deepspeed.ops.transformer.inference.ds_mlp import DeepSpeedMLP

    [answered] = answer(context, [case])
    spare = [*DeepSpeedSelfAttention._qkv_buffers, *DeepSpeedMLP._inter_w_buffers]
    return answered, sum(tensor.nbytes for tensor in spare)


def test_each_family_that_is_said_to_have_kernels_has_an_adapter() -> None:
    from raydsinfer.engines.deepspeed_kernels.adapters import ADAPTERS

    assert set(ADAPTERS) == set(WITH_KERNELS)


def test_a_policy_that_matches_no_layer() -> None:
    from raydsinfer.engines.deepspeed_kernels.adapters import require_all_replaced

    with pytest.raises(EngineError, match=r"policy for opt matched 0 of 3 decoder layers.*kernel_inject=False"):
        require_all_replaced(tiny_model("opt"))


# On two ranks the usual form, filled by slices; on one the variant, given whole to DeepSpeed; and two that DeepSpeed
# cuts from whole weights in ways of their own.
FORMS = [(family, size, size == 1) for family in WITH_KERNELS for size in (1, 2)] + [
    (family, 2, True) for family in ("bloom", "llama")
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "world_size", "whole"), FORMS)
def test_greedy_tokens_equal_transformers(tmp_path: Path, family: str, world_size: int, whole: bool) -> None:
    changes = VARIANTS.get(family, {}) if world_size == 1 else {}
    model = write_tiny_model(family, tmp_path / family, spread=0.3, **changes)
    settings: dict[str, Any] = {"kernel_inject": True, "use_meta_tensor": not whole, "max_tokens": MAX_TOKENS}
    if (family, world_size) == NOTHING_ELSE_RUNS:
        settings |= {"kernel_inject": False, "engine": "auto"}
    loaded = model
    if (family, world_size) == (CUT_FOR_AUTOTP, 2):
        loaded = tmp_path / "cut"
        reshard_directory(model, loaded, checked_settings("ranks", 2, None, "1GB"), origin={})
    if (family, world_size, whole) == (WRITTEN_FOR_KERNELS, 2, False):
        settings["save_mp_checkpoint_path"] = str(tmp_path / "written")
    case, spare_bytes = run_ranks(world_size, answer_and_spare_bytes, Case(str(loaded), settings, batches()))
    assert spare_bytes == 0
    for (requests, generation), answers in zip(case.batches, case.answers, strict=True):
        expected = plain_greedy(model, requests, generation.get("max_new_tokens", NEW_TOKENS))
        assert tokens(answers) == expected, f"prompts of {[len(request) for request in requests]}"


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_gangs_one_after_the_other_share_nothing(tmp_path: Path, quick: GangConfig) -> None:
    requests, pids = prompts([12, 5]), set()
    # The first model's workspace, count of layers and layout would not fit the other.
    for family, changes in (("opt", {}), ("gpt2", {"n_embd": 96, "n_layer": 3})):
        model = write_tiny_model(family, tmp_path / f"{family}{len(pids)}", **changes)
        spec = EngineSpec(model=str(model), config=EngineConfig(max_tokens=64, kernel_inject=True, verify="off"))
        two = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1})
        with WorkerGroup.create(spec, two, gang_config=quick) as group:
            pids |= {rank.pid for rank in group.ranks}
            call = GenerateBatch(prompts=requests, generation=GenerationConfig(max_new_tokens=NEW_TOKENS))
            assert tokens(group.run("generate", call)) == plain_greedy(model, requests, NEW_TOKENS)
    assert len(pids) == 4


@pytest.mark.slow
def test_injected_layers_are_accounted_for_and_stay_alone_in_their_process(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = write_tiny_model("opt", tmp_path / "opt")
    state = load_file(directory / "model.safetensors")
    del state["model.decoder.layers.1.fc1.bias"]
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    other = write_tiny_model("gpt2", tmp_path / "gpt2")
    first, second = run_ranks(1, fail_to_load, [(str(path), {"kernel_inject": True}) for path in (directory, other)])
    assert "parameters never filled: model.decoder.layers.1.fc1.bias" in first
    assert "this process has held another model" in second
