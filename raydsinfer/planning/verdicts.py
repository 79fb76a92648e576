"""Which engine is possible with which dtype, why not the others, and what to use instead. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raydsinfer.config import EngineConfig
from raydsinfer.engines.capabilities import dtype_problem
from raydsinfer.engines.choice import Choice, choose_engine
from raydsinfer.engines.families import FAMILIES, Mode, choose_mode
from raydsinfer.engines.int8.replace import require_float_weights, require_linears
from raydsinfer.errors import ConfigurationError, InvalidSettingError, UnsupportedError
from raydsinfer.planning.gpus import Gpu, dotted
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.nodes import NodeFacts
from raydsinfer.planning.wanted import ranks_flag

Engine = Literal["kernel_inject", "continuous", "static", "plain"]

ENGINES: dict[Engine, tuple[str, dict[str, Any]]] = {
    "kernel_inject": (
        "kernel injection",
        {"kernel_inject": True, "ds_inference": True, "batching": "static"},
    ),
    "continuous": (
        "continuous AutoTP",
        {"kernel_inject": False, "ds_inference": True, "batching": "continuous"},
    ),
    "static": (
        "static AutoTP",
        {"kernel_inject": False, "ds_inference": True, "batching": "static"},
    ),
    "plain": (
        "plain transformers",
        {"kernel_inject": False, "ds_inference": False},
    ),
}
"""What people call it, and the settings that choose it."""

DTYPES = ("float16", "bfloat16", "float32", "int8")


@dataclass(frozen=True, kw_only=True)
class EngineVerdict:
    """Whether one engine runs the model with one dtype.

    Args:
        engine: Which.
        dtype: Of weights and activations.
        possible: None where something that is not known decides.
        why_not: Why it is not, or what is not known.
        instead: What to use, or how to find out.
    """

    engine: Engine
    dtype: str
    possible: bool | None
    why_not: str = ""
    instead: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What ranks would run on.

    Args:
        num_ranks: Tensor parallel size.
        use_gpu: Whether a rank is a GPU.
        nodes: That a gang may go to.
        assumed: The GPU that the user told of, for a cluster that has none.
    """

    num_ranks: int
    use_gpu: bool
    nodes: tuple[NodeFacts, ...] = ()
    assumed: Gpu | None = None

    @property
    def gpus(self) -> list[Gpu]:
        """All of them."""
        found = [gpu for node in self.nodes for gpu in node.gpus]
        return found or ([self.assumed] if self.assumed is not None else [])

    def first_problem(self, name: str) -> str:
        """A problem of the nodes with GPUs, by the name of its field, with the node's own; empty for none."""
        for node in self.nodes:
            if node.num_gpus and (problem := getattr(node, name)):
                return f"{problem} (node {node.name})" if len(self.nodes) > 1 else str(problem)
        return ""


def mode_of(engine: Engine) -> Mode:
    """The mode of `choose_mode` that an engine is of."""
    modes: dict[Engine, Mode] = {
        "kernel_inject": "kernel_inject",
        "continuous": "autotp",
        "static": "autotp",
        "plain": "plain",
    }
    return modes[engine]


def wanted_engine(config: EngineConfig, model: ModelFacts, place: Place) -> Engine:
    """The engine that the settings ask for, or that ``engine="auto"`` chooses there."""
    config = chosen(config, model, place).config
    if config.kernel_inject:
        return "kernel_inject"
    if not config.ds_inference:
        return "plain"
    if config.batching == "auto":
        return "static" if model.continuous_problem or not config.use_cache else "continuous"
    return config.batching


def chosen(config: EngineConfig, model: ModelFacts, place: Place) -> Choice:
    """What ``engine="auto"`` stands for there, as the gang would choose it."""
    dtype = wanted_dtype(config, model, place)
    return choose_engine(
        config,
        model.config,
        place.num_ranks,
        gpu_dtype=dtype if place.use_gpu else None,
        stored_form=model.stored.form if model.stored is not None else "",
        kernels_problem=place.first_problem("kernels_problem") if place.use_gpu else "",
    )


def wanted_dtype(config: EngineConfig, model: ModelFacts, place: Place) -> str:
    """The dtype that the settings mean, as the engine chooses it on its device."""
    if config.dtype != "auto":
        return config.dtype
    if not place.use_gpu:
        return "float32"
    known = [gpu.capability for gpu in place.gpus]
    has = bool(known) and all(found is not None and not dtype_problem("bfloat16", found) for found in known)
    return "bfloat16" if model.saved_as == "bfloat16" and has else "float16"


def require_length(model: ModelFacts, config: EngineConfig) -> None:
    """Refuse a `max_tokens` that no engine could serve.

    Raises:
        InvalidSettingError: It is more than the model has positions for.
    """
    if model.positions is not None and config.max_tokens > model.positions:
        raise InvalidSettingError(
            name="max_tokens",
            value=config.max_tokens,
            expected=f"at most {model.positions}, the positions that this {model.family} model has",
            hint=f"On the command line: --max-tokens {model.positions}.",
        )


def engine_verdicts(model: ModelFacts, config: EngineConfig, place: Place) -> list[EngineVerdict]:
    """A verdict for each engine and dtype.

    Args:
        model: The model.
        config: Inference settings; which engine and dtype they choose does not count.
        place: What ranks would run on.
    """
    return [engine_verdict(model, config, place, engine, dtype) for engine in ENGINES for dtype in DTYPES]


def engine_verdict(model: ModelFacts, config: EngineConfig, place: Place, engine: Engine, dtype: str) -> EngineVerdict:
    """One of them. The first problem counts: settings, model, GPUs, what their nodes lack, then what nobody knows."""
    found = (
        _by_settings(model, config, place, engine, dtype)
        or _by_model(model, engine)
        or _by_weights(model, config, engine)
        or _by_int8(model, dtype)
        or _by_gpus(place, dtype)
        or _by_nodes(place, engine)
        or _by_slices(model, place)
    )
    possible, why_not, instead = found or (True, "", "")
    return EngineVerdict(engine=engine, dtype=dtype, possible=possible, why_not=why_not, instead=instead)


_Against = tuple[bool | None, str, str]


def _by_settings(model: ModelFacts, config: EngineConfig, place: Place, engine: Engine, dtype: str) -> _Against | None:
    try:
        changed = config.replaced({**ENGINES[engine][1], "dtype": dtype})
        choose_mode(changed, model.config, place.num_ranks, gpu_dtype=dtype if place.use_gpu else None)
    except UnsupportedError as error:
        return False, error.why, error.instead
    except ConfigurationError as error:
        return False, str(error), ""
    return None


def _by_model(model: ModelFacts, engine: Engine) -> _Against | None:
    if engine == "continuous" and model.continuous_problem:
        return False, model.continuous_problem, "Use batching='static', or 'auto', which takes it."
    return None


def _by_weights(model: ModelFacts, config: EngineConfig, engine: Engine) -> _Against | None:
    """What weights that were cut for ranks go with."""
    if model.stored is None or model.stored.form not in ("ranks", "deepspeed"):
        return None
    if model.stored.form == "deepspeed" and engine != "kernel_inject":
        why = f"DeepSpeed wrote the weights for {model.stored.tp_size} ranks of its fused layers"
        return False, f"{why}, which only its kernels have", "Use kernel_inject=True, or the original weights."
    why = f"the weights were cut for {model.stored.tp_size} ranks, which transformers cannot read"
    if engine == "plain":
        return False, why, "Use ds_inference=True, or the original weights."
    if not config.use_meta_tensor:
        return False, why, "Use use_meta_tensor=True, or the original weights."
    return None


def _by_int8(model: ModelFacts, dtype: str) -> _Against | None:
    """The engine's own rules, on the model without weights."""
    if dtype != "int8":
        return None
    try:
        require_float_weights(model.config)
        require_linears(model.built)
    except UnsupportedError as error:
        return False, error.why, error.instead
    return None


def _by_gpus(place: Place, dtype: str) -> _Against | None:
    if not place.use_gpu:
        if dtype in ("float32", "int8"):
            return None
        return None, "CPU ranks were tested in float32 and int8 only", "Use dtype='float32'."
    for gpu in place.gpus:
        if gpu.capability is not None and (problem := dtype_problem(dtype, gpu.capability)):
            which = f" ({gpu.name or 'GPU'}: {dotted(gpu.capability)})" if len(set(place.gpus)) > 1 else ""
            return False, f"{problem}{which}", "Use dtype='float16'."
    if dtype == "bfloat16" and (not place.gpus or any(gpu.capability is None for gpu in place.gpus)):
        return (
            None,
            "bfloat16 depends on the GPU, whose compute capability nobody tells",
            "Name it: `raydsinfer plan --gpu NAME`.",
        )
    return None


def _by_nodes(place: Place, engine: Engine) -> _Against | None:
    if not place.use_gpu:
        return None
    if problem := place.first_problem("torch_problem"):
        return False, problem, "Install another build of torch; `raydsinfer doctor` on that node says which."
    if engine == "kernel_inject" and (problem := place.first_problem("kernels_problem")):
        return False, f"its kernels cannot be built: {problem}", "Use kernel_inject=False, or mend what is missing."
    if engine == "kernel_inject" and not (place.nodes and all(node.kernels_tried for node in place.nodes)):
        why = "whether its kernels can be built is only looked for where a driver tells of a GPU"
        return None, why, "`raydsinfer doctor` on a node with GPUs says."
    return None


def _by_slices(model: ModelFacts, place: Place) -> _Against | None:
    is_cut = model.stored is not None and model.stored.form == "ranks"
    if place.num_ranks == 1 or model.family in FAMILIES or is_cut:
        return None
    why = f"whether DeepSpeed can slice {model.family} is only known when a gang starts"
    ranks = f"{ranks_flag(use_gpu=place.use_gpu)} {place.num_ranks}"
    return None, why, f"`raydsinfer verify MODEL {ranks}` starts one. One rank needs no slices."


def best_possible(verdicts: Sequence[EngineVerdict], dtype: str, *, use_gpu: bool) -> EngineVerdict | None:
    """What to take where the wanted one is refused: the fastest with that dtype, else any."""
    fine = [verdict for verdict in verdicts if verdict.possible]
    # As `choose_engine` has it.
    order: list[Engine] = ["continuous", "kernel_inject", "static", "plain"]
    if not use_gpu:
        order = ["continuous", "static", "kernel_inject", "plain"]
    return min(fine, key=lambda v: (v.dtype != dtype, order.index(v.engine)), default=None)
