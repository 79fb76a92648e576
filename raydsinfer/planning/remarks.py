"""What is good to know about a plan, though nothing stands against it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from raydsinfer.config import EngineConfig
from raydsinfer.engines.capabilities import AMPERE
from raydsinfer.engines.families import FAMILIES
from raydsinfer.planning.gpus import Gpu, weakest
from raydsinfer.planning.memory import Memory
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.nodes import NodeFacts, differing_versions
from raydsinfer.planning.placing import Placed
from raydsinfer.planning.verdicts import Engine
from raydsinfer.planning.wanted import Wanted


def remarks_on(
    wanted: Wanted,
    model: ModelFacts,
    nodes: Sequence[NodeFacts],
    engine: Engine,
    placed: Sequence[Placed],
    memory: Memory,
    why_engine: str = "",
) -> Iterator[str]:
    """Remarks, each a sentence or two.

    Args:
        wanted: What was asked for.
        model: The model.
        nodes: That gangs may go to.
        engine: That is wanted.
        placed: Where gangs would go.
        memory: Of a rank.
        why_engine: Why that one, if it was chosen and not said; empty for no reason.
    """
    if why_engine:
        yield f"{why_engine}."
    yield from _on_model(model, engine)
    if wanted.use_gpu:
        yield from _on_gpus(wanted, nodes, engine, memory)
    for node in nodes:
        if node.problem:
            yield f"node {node.name} could not be looked at: {node.problem}"
    for package, versions in differing_versions(nodes).items():
        listed = ", ".join(f"{version} on {', '.join(names)}" for version, names in versions.items())
        yield f"{package} is not the same everywhere: {listed}. Ranks of one gang need the same."
    if any(len(gang.ranks_by_node) > 1 for gang in placed):
        yield "A gang would span nodes, and its ranks talk much: --placement-strategy STRICT_PACK keeps it on one."


def _on_model(model: ModelFacts, engine: Engine) -> Iterator[str]:
    if model.family not in FAMILIES:
        yield f"Nothing is known of the family {model.family}: it may run, but its text was never checked."
    if engine == "continuous" and not model.continuous_tried:
        yield "Whether rows can join a running batch is only tried when the gang starts; if not, it batches statically."
    if not model.listing.complete:
        yield "The hub could not be asked: how large the model is on disk is not known."


def _on_gpus(wanted: Wanted, nodes: Sequence[NodeFacts], engine: Engine, memory: Memory) -> Iterator[str]:
    gpus = [gpu for node in nodes for gpu in node.gpus]
    blind = [node.name for node in nodes if any(gpu == Gpu() for gpu in node.gpus) and not node.problem]
    if blind:
        yield (
            f"No driver tells of the GPUs that Ray counts on {', '.join(blind)}: kind and memory are not known. "
            "Name them: `raydsinfer plan --gpu NAME`, or `--gpu-memory-gib N`."
        )
    kinds = Counter(str(gpu) for gpu in gpus)
    if len(kinds) > 1:
        listed = "; ".join(f"{count} x {kind}" for kind, count in kinds.items())
        yield (
            f"The GPUs are of different kinds: {listed}. What is said here holds for the weakest of each; "
            "--accelerator-type keeps gangs to one kind."
        )
    if (lowest := weakest(gpus)) and lowest < AMPERE and engine == "continuous":
        yield "Before Ampere (8.0) attention='auto' is padded SDPA: no FlashAttention, FlexAttention or FlashInfer."
    yield from _on_nodes(wanted.config, nodes, engine)
    if memory.device_bytes is not None and engine == "continuous":
        yield "Activations are reckoned: the gang measures them when it starts, and the KV cache takes what is left."


def _on_nodes(config: EngineConfig, nodes: Sequence[NodeFacts], engine: Engine) -> Iterator[str]:
    for node in nodes:
        if engine == "continuous" and node.compiler_problem and config.torch_compile is not False:
            yield f"On {node.name} layers would run uncompiled, and slower: {node.compiler_problem}."
        taken = [gpu for gpu in node.gpus if _is_taken(gpu, config)]
        if taken and node.num_free_gpus:
            yield (
                f"On {node.name} {len(taken)} of {node.num_gpus} GPUs have less than gpu_memory_utilization="
                f"{config.gpu_memory_utilization:g} of their memory free, whoever uses it."
            )


def _is_taken(gpu: Gpu, config: EngineConfig) -> bool:
    if gpu.free_bytes is None or gpu.total_bytes is None:
        return False
    return gpu.free_bytes < config.gpu_memory_utilization * gpu.total_bytes
