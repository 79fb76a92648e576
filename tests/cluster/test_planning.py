"""What a plan says before anything is loaded is what engines report afterwards, and what a cluster is like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.engines.resharding import checked_settings, reshard_directory
from raydsinfer.planning.copies import copies_bytes
from raydsinfer.planning.gather import read_cluster
from raydsinfer.planning.gpus import assumed_gpu
from raydsinfer.planning.memory import rank_memory
from raydsinfer.planning.model import read_model
from raydsinfer.planning.plan import make_plan
from raydsinfer.planning.shares import parameters_by_rank
from raydsinfer.planning.verdicts import Engine
from raydsinfer.planning.wanted import Wanted
from tests.clusters import assert_nothing_left, several_nodes
from tests.commands import Commands
from tests.models import write_tiny_model
from tests.ranks import answers_of_ranks

Load = tuple[str, Engine, dict[str, Any]]
COMMON = {"dtype": "float32", "max_tokens": 64, "max_batch_size": 4}


def reports(context: RankContext, loads: list[Load]) -> list[LoadReport]:
    """On each rank: load each model and tell what came of it."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    told = []
    for model, _, settings in loads:
        config = EngineConfig(**COMMON, **settings, verify="off")
        engine = DeepSpeedEngine(EngineSpec(model=model, config=config), context)
        told.append(engine.load())
        engine.close()
    return told


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven heads, an output head of its own and a tied one, biases, joined queries, keys and values."""
    root = tmp_path_factory.mktemp("models")
    uneven = {"hidden_size": 144, "intermediate_size": 384, "num_attention_heads": 9, "num_key_value_heads": 3}
    write_tiny_model("llama", root / "llama", **uneven)
    write_tiny_model("llama", root / "tied", **uneven, tie_word_embeddings=True)
    write_tiny_model("opt", root / "opt", hidden_size=256, ffn_dim=1024, word_embed_proj_dim=256)
    write_tiny_model("gpt_neox", root / "gpt_neox", hidden_size=256, intermediate_size=1024)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_memory_is_what_engines_report(models: Path, num_ranks: int) -> None:
    paged = {"kv_cache_bytes": 3_000_000}
    loads: list[Load] = [(str(models / name), "continuous", paged) for name in ("llama", "tied", "opt", "gpt_neox")]
    if num_ranks < 3:
        loads.append((str(models / "opt"), "kernel_inject", {"kernel_inject": True}))
    by_rank = answers_of_ranks(num_ranks, reports, loads, timeout_s=150)
    for (model, engine, settings), told in zip(loads, zip(*by_rank, strict=True), strict=True):
        config, case = EngineConfig(**COMMON, **settings), f"{Path(model).name} {engine}"
        facts = read_model(model, config)
        parameters = parameters_by_rank(facts.built, told[0].mode, num_ranks)
        if "llama" in case or num_ranks == 1:
            assert parameters == [report.num_parameters for report in told], case
        memory = rank_memory(facts, config, engine, "float32", num_ranks, use_gpu=False, device_bytes=None)
        # Biases that are cut are reckoned as whole.
        assert memory.weights_bytes == pytest.approx(max(r.parameter_bytes for r in told), rel=0.01), case
        if engine == "continuous":
            assert (told[0].batching, memory.kv_tokens) == ("continuous", told[0].num_kv_tokens), case
            assert memory.largest_batch == min(256, told[0].num_kv_tokens // 64), case


@pytest.mark.slow
def test_disk_for_a_copy_is_what_it_takes(tmp_path: Path) -> None:
    model, target = write_tiny_model("llama", tmp_path / "llama"), tmp_path / "cut"
    written = reshard_directory(model, target, checked_settings("deepspeed", 2, None, "5GB"), origin={})
    facts = read_model(str(model), EngineConfig())
    planned = copies_bytes(facts, EngineConfig(save_mp_checkpoint_path=str(target)), 2, kernels=True)
    # What all ranks have and each one's part: all may be in work at a time, put together in as much space again.
    assert written.num_files == 3
    assert planned == pytest.approx(2 * written.num_bytes, rel=0.02)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with fake GPUs, one without."""
    with several_nodes(4, 2, 0) as cluster:
        cluster.wait_for_nodes()
        yield cluster
        assert_nothing_left()


@ray.remote(num_gpus=1, num_cpus=0)
class Trainer:
    def ready(self) -> bool:
        return True


def wanted_for(model: Path, **changes: Any) -> Wanted:
    return Wanted(model=str(model), config=EngineConfig(max_tokens=256), **changes)


@pytest.mark.slow
def test_a_cluster_with_fake_gpus_and_others_on_them(cluster: Cluster, models: Path) -> None:
    remote: Any = Trainer
    group = placement_group([{"GPU": 1}] * 3, strategy="STRICT_PACK", name="training")
    ray.get(group.ready(), timeout=30)
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    inside = remote.options(scheduling_strategy=strategy).remote()
    alone = remote.options(name="lonely").remote()
    ray.get([inside.ready.remote(), alone.ready.remote()], timeout=60)
    wanted = wanted_for(models / "llama")
    model = read_model(wanted.model, wanted.config)
    try:
        found = read_cluster(wanted, model, timeout_s=120)
    finally:
        ray.kill(inside)
        ray.kill(alone)
        remove_placement_group(group)

    assert sorted((node.num_gpus, node.problem) for node in found.nodes) == [(0, ""), (2, ""), (4, "")]
    assert sum(node.num_free_gpus for node in found.nodes) == 2
    # A fake GPU has no driver: what it is stays unknown.
    assert {gpu.total_bytes for node in found.nodes for gpu in node.gpus} == {None}
    assert all(node.versions["ray"] == ray.__version__ and not node.model_problem for node in found.nodes)
    assert all((node.available_bytes or 0) > 0 for node in found.nodes)
    who = sorted((holder.num_gpus, holder.who.split(" (pid")[0]) for holder in found.holders)
    assert who == [(1, "actor lonely"), (3, "placement group training with Trainer")]
    assert all("pytest" in holder.job or "python" in holder.job for holder in found.holders)

    plan = make_plan(wanted, model, found)
    assert (plan.num_ranks, plan.memory.largest_batch, plan.gangs_now, plan.gangs_idle) == (1, None, 2, 6)
    assert any("No driver tells of the GPUs" in remark for remark in plan.remarks)
    three = make_plan(replace(wanted, num_ranks=3, num_gangs=2), model, found)
    assert three.gangs_idle == 2
    assert any("would wait" in problem.what and "named below" in problem.cure for problem in three.problems)
    apart = make_plan(replace(wanted, num_ranks=3, placement_strategy="STRICT_SPREAD"), model, found)
    assert any("idle nodes would hold 2 on different nodes" in problem.what for problem in apart.problems)


def test_a_model_that_nodes_lack_and_a_gpu_that_the_user_tells(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    wanted = wanted_for(models / "llama", num_ranks=2, assumed=assumed_gpu("T4", None))
    model = read_model(wanted.model, wanted.config)
    moved = replace(wanted, model=str(tmp_path / "gone"))
    found = read_cluster(moved, model, timeout_s=120)
    plan = make_plan(moved, model, found)
    assert sum("no such directory on this node" in problem.what for problem in plan.problems) == 2
    assert {(gpu.name, gpu.capability) for node in found.nodes for gpu in node.gpus} == {("T4", (7, 5))}
    assert plan.memory.largest_batch == 256
    refused = {v.engine: v.why_not for v in plan.verdicts if v.dtype == "bfloat16"}
    assert all("this one has 7.5" in refused[engine] for engine in ("continuous", "static"))


def test_the_command(cluster: Cluster, models: Path) -> None:
    with Commands() as commands:
        code, out, err = commands.run("plan", str(models / "llama"), "--gpu", "T4", "--max-tokens", "256", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["gang"]["num_ranks"]) == (0, True, 1), err
    assert found["placement"]["gangs_now"] == len(found["placement"]["gangs"]) == 6
    assert f"--address {cluster.address}" in found["next"]["commands"][0]
