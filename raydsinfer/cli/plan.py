"""The plan of a run: gangs, ranks, what each would hold and where it would go. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydsinfer.config import EngineConfig
from raydsinfer.groups.placement import GangRequest, NodeResources, why_impossible

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """How large a model is, from its configuration alone.

    Args:
        mode: How it would run: ``kernel_inject``, ``autotp`` or ``plain``.
        dtype: Of the weights.
        bytes_per_parameter: Size of that dtype.
        num_sharded: Parameters that the ranks share among them.
        num_whole: Parameters that every rank holds.
    """

    mode: str
    dtype: str
    bytes_per_parameter: int
    num_sharded: int
    num_whole: int

    def num_per_rank(self, num_ranks: int) -> int:
        """Parameters on the rank that holds most."""
        return self.num_whole + -(-self.num_sharded // num_ranks)


def model_size(model: str, config: EngineConfig, num_ranks: int, *, use_gpu: bool) -> ModelSize:
    """Read a model's configuration and count its parameters, without memory for any of them.

    Args:
        model: Directory, URL or hub name; only its small files are fetched.
        config: Inference settings, checked against the model.
        num_ranks: Tensor parallel size.
        use_gpu: What ``dtype="auto"`` goes by; on a GPU it is reckoned with 2 bytes.

    Raises:
        CheckpointError: There is no such model, or its configuration is of no use.
        ConfigurationError: The settings do not go with the model.
    """
    from raydsinfer.checkpoints.source import local_directory
    from raydsinfer.engines.families import choose_mode
    from raydsinfer.engines.model import build_meta, read_config, resolve_dtype

    directory = local_directory(model, revision=config.revision, hf_home=config.hf_home, weights=False)
    model_config = read_config(directory, trust_remote_code=config.trust_remote_code)
    mode = choose_mode(config, model_config, num_ranks)
    named = "float16" if config.dtype == "auto" and use_gpu else config.dtype
    dtype = resolve_dtype(named, model_config, "cpu")
    built = build_meta(model_config, dtype, trust_remote_code=config.trust_remote_code)
    sharded = num_sharded(built) if mode != "plain" else 0
    return ModelSize(
        mode=mode,
        dtype=str(dtype).removeprefix("torch."),
        bytes_per_parameter=dtype.itemsize,
        num_sharded=sharded,
        num_whole=sum(p.numel() for p in built.parameters()) - sharded,
    )


def num_sharded(model: nn.Module) -> int:
    """Parameters that tensor parallelism cuts: the matrices of the repeated layers.

    Embeddings, norms and the output head stay whole on each rank. Biases are counted as whole, which
    is within a thousandth of a model's size.
    """
    from torch.nn import Embedding, ModuleList

    return sum(
        parameter.numel()
        for layers in model.modules()
        if isinstance(layers, ModuleList)
        for module in layers.modules()
        if not isinstance(module, Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() == 2
    )


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the ranks of a gang would go.

    Args:
        gang: Number of the gang, from 0.
        ranks_by_node: Address of a node → ranks there.
        problem: Why there is no place; empty if there is.
    """

    gang: int
    ranks_by_node: dict[str, int]
    problem: str = ""


def place_gangs(request: GangRequest, num_gangs: int, nodes: Sequence[NodeResources]) -> list[Placed]:
    """Where Ray would put the gangs on what is free now.

    Ray decides in the end; this fills nodes the way its strategies say: PACK the fewest, SPREAD one
    after the other.

    Args:
        request: Of one gang.
        num_gangs: How many.
        nodes: What the cluster has.
    """
    room = [_num_bundles(request, node) for node in nodes]
    placed = []
    for gang in range(num_gangs):
        taken = _take(request, room)
        if sum(taken) == request.num_ranks:
            room = [have - used for have, used in zip(room, taken, strict=True)]
            by_node = {node.address: used for node, used in zip(nodes, taken, strict=True) if used}
            placed.append(Placed(gang=gang, ranks_by_node=by_node))
        else:
            problem = why_impossible(request, nodes) or "nothing is free for it now: it would wait"
            placed.append(Placed(gang=gang, ranks_by_node={}, problem=problem))
    return placed


def _num_bundles(request: GangRequest, node: NodeResources) -> int:
    # Ray counts in ten-thousandths: a little slack keeps 0.3 / 0.1 at three.
    return int(min(node.free.get(name, 0) / amount + 1e-6 for name, amount in request.bundle.items()))


def _take(request: GangRequest, room: Sequence[int]) -> list[int]:
    """Bundles to take from each node, as many as wanted or fewer if there is no room."""
    taken, wanted = [0] * len(room), request.num_ranks
    if request.strategy in ("SPREAD", "STRICT_SPREAD"):
        most = 1 if request.strategy == "STRICT_SPREAD" else max(room, default=0)
        for _ in range(most):
            for node in range(len(room)):
                if taken[node] < room[node] and sum(taken) < wanted:
                    taken[node] += 1
        return taken
    whole = [node for node, have in enumerate(room) if have >= wanted]
    if whole:
        taken[min(whole, key=lambda node: room[node])] = wanted
        return taken
    if request.strategy == "STRICT_PACK":
        return taken
    for node in sorted(range(len(room)), key=lambda node: -room[node]):
        taken[node] = min(room[node], wanted - sum(taken))
    return taken
