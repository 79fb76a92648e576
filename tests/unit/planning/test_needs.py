from __future__ import annotations

from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.doctor.judges.node import RANK_HOST_BYTES
from raydsinfer.planning.memory import rank_memory
from raydsinfer.planning.needs import Need, needs_of
from raydsinfer.planning.nodes import NodeFacts
from raydsinfer.planning.verdicts import Engine
from tests.unit.planning.facts import GIB, model, node


def needs(
    *nodes: NodeFacts, ranks: int = 2, use_gpu: bool = True, engine: Engine = "continuous", **settings: Any
) -> list[Need]:
    config = EngineConfig(**settings)
    dtype = "float16" if use_gpu else "float32"
    memory = rank_memory(model(), config, engine, dtype, 2, use_gpu=use_gpu, device_bytes=None)
    return needs_of(nodes, {"a": ranks}, model(), config, memory, num_ranks=2, use_gpu=use_gpu)


def test_weights_that_go_to_gpus_pass_through_buffers() -> None:
    first, second = needs(node("a"), node("b"))
    assert (first.host_bytes, first.disk_bytes, first.problems) == (2 * RANK_HOST_BYTES, 0, ())
    assert (second.num_ranks, second.host_bytes) == (0, 0)
    (whole,) = needs(node("a"), use_meta_tensor=False)
    assert whole.host_bytes == 2 * (RANK_HOST_BYTES + 2 * model().num_parameters)


def test_cpu_ranks_hold_the_model_in_host_memory() -> None:
    (tight,) = needs(node("a", available_bytes=16 * GIB), use_gpu=False)
    assert tight.host_bytes > 4 * model().num_parameters
    assert "2 ranks take about" in tight.problems[0]
    assert "17.2 GB are available" in tight.problems[0]


def test_disk_for_what_is_fetched_and_for_what_is_written() -> None:
    (fetched,) = needs(node("a", missing_bytes=16 * 10**9))
    assert (fetched.disk_bytes, fetched.problems) == (16 * 10**9, ())
    (full,) = needs(node("a", missing_bytes=16 * 10**9, disk_free_bytes=10**9))
    assert "takes 16.0 GB more in /data/hf, 1.0 GB are free there" in full.problems[0]
    (locked,) = needs(node("a", missing_bytes=1, disk_problem="user x may not write in /data"))
    assert "may not write" in locked.problems[0]
    (cut,) = needs(node("a"), save_mp_checkpoint_path="/nvme/cut", reshard_checkpoint_path="/nvme/layers")
    assert (cut.disk_bytes, cut.copies_bytes) == (0, 2 * 16 * 10**9)
    (for_kernels,) = needs(node("a"), save_mp_checkpoint_path="/nvme/cut", engine="kernel_inject")
    assert for_kernels.copies_bytes > 2 * 16 * 10**9


def test_a_model_and_packages_that_are_not_there() -> None:
    (lacking,) = needs(node("a", model_problem="/m: no such directory", software_problem="ray 2.9 (pip install …)"))
    assert lacking.problems == ("/m: no such directory", "ray 2.9 (pip install …)")
