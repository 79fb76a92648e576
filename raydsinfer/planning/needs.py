"""Host memory and disk that gangs take on each node, and whether they are there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.config import EngineConfig
from raydsinfer.doctor.judges.node import RANK_HOST_BYTES
from raydsinfer.planning.copies import copies_bytes
from raydsinfer.planning.memory import ITEM_BYTES, Memory
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.nodes import NodeFacts

_GIB = 2**30

CPU_RANK_BYTES = _GIB
"""Reckoned for Python, torch and DeepSpeed in a CPU rank, beside weights, keys and values: an allowance."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one node has to have.

    Args:
        node: Name of the node.
        num_ranks: That would run there.
        host_bytes: Host memory of these ranks.
        disk_bytes: To fetch the model.
        copies_bytes: For copies in another form that settings ask for, while they are being written. Not counted:
            what pickles from before zip archives are unpacked to.
        problems: Why there is not enough, or the model cannot be read.
    """

    node: str
    num_ranks: int
    host_bytes: int
    disk_bytes: int
    copies_bytes: int = 0
    problems: tuple[str, ...] = ()


def rank_host_bytes(model: ModelFacts, config: EngineConfig, memory: Memory, *, use_gpu: bool) -> int:
    """Host memory of one rank, the fullest."""
    whole = 0 if config.use_meta_tensor else model.num_parameters * ITEM_BYTES.get(memory.dtype, 2)
    if use_gpu:
        return RANK_HOST_BYTES + whole
    return CPU_RANK_BYTES + memory.weights_bytes + (memory.kv_bytes or 0) + memory.overhead_bytes + whole


def needs_of(
    nodes: Sequence[NodeFacts],
    ranks_by_node: Mapping[str, int],
    model: ModelFacts,
    config: EngineConfig,
    memory: Memory,
    *,
    num_ranks: int,
    use_gpu: bool,
) -> list[Need]:
    """What each node has to have.

    Args:
        nodes: That gangs may go to.
        ranks_by_node: Node id → ranks of all gangs there.
        model: The model.
        config: Inference settings.
        memory: Of a rank.
        num_ranks: Of a gang.
        use_gpu: Whether a rank is a GPU.
    """
    each = rank_host_bytes(model, config, memory, use_gpu=use_gpu)
    copies = copies_bytes(model, config, num_ranks, kernels=memory.engine == "kernel_inject")
    return [_need(node, ranks_by_node.get(node.node_id, 0), each, copies) for node in nodes]


def _need(node: NodeFacts, num_ranks: int, each: int, copies: int) -> Need:
    host, problems = num_ranks * each, []
    if node.model_problem:
        problems.append(node.model_problem)
    if node.software_problem:
        problems.append(node.software_problem)
    if node.available_bytes is not None and host > node.available_bytes:
        problems.append(
            f"{num_ranks} ranks take about {size_in_words(host)} of host memory, "
            f"{size_in_words(node.available_bytes)} are available"
        )
    if node.missing_bytes and node.disk_problem:
        problems.append(f"the model cannot be fetched to {node.disk_path}: {node.disk_problem}")
    elif node.disk_free_bytes is not None and node.missing_bytes > node.disk_free_bytes:
        problems.append(
            f"the model takes {size_in_words(node.missing_bytes)} more in {node.disk_path}, "
            f"{size_in_words(node.disk_free_bytes)} are free there (HF_HOME or --hf-home names another place)"
        )
    return Need(
        node=node.name,
        num_ranks=num_ranks,
        host_bytes=host,
        disk_bytes=node.missing_bytes,
        copies_bytes=copies,
        problems=tuple(problems),
    )
