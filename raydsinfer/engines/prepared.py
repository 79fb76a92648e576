"""The directory that a gang loads from: the model's own, or one that is made from it once."""

from __future__ import annotations

from pathlib import Path

from raydsinfer.checkpoints.resharding.extras import read_model_config
from raydsinfer.checkpoints.resharding.manifest import Settings, read_manifest
from raydsinfer.checkpoints.resharding.plan import CONVERTIBLE
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.config import EngineConfig
from raydsinfer.engines.resharding import DEFAULT_SHARD_SIZE, checked_settings, reshard_directory
from raydsinfer.errors import UnsupportedError

_NO_LIMIT = "1TB"  # layers are not split, and nobody is there to choose a limit


def prepared_directory(
    directory: Path, config: EngineConfig, world_size: int, on_progress: OnProgress | None = None
) -> Path:
    """Make what `reshard_checkpoint_path` and `save_mp_checkpoint_path` ask for, if it is not there yet.

    Every rank calls this; one of those that share the path does the work, the others wait for it.

    Args:
        directory: The model on this node.
        config: Inference settings.
        world_size: Ranks of the gang.
        on_progress: Told of bytes done and bytes in all, by the rank that does the work.

    Returns:
        The directory to load from; `directory` itself if nothing is asked for.

    Raises:
        CheckpointError: The model's files are wrong.
        ConfigurationError: A path lies inside the model, or the model cannot be cut.
        OutputError: A path cannot be written, or holds something else.
        UnsupportedError: The weights were cut for AutoTP, and the kernels cannot use what each rank has.
    """
    if config.reshard_checkpoint_path is not None:
        settings = checked_settings("layers", None, None, _NO_LIMIT)
        directory = _made(directory, "reshard_checkpoint_path", settings, config, on_progress)
    if config.save_mp_checkpoint_path is not None:
        settings = _settings_of_ranks(directory, config, world_size)
        directory = _made(directory, "save_mp_checkpoint_path", settings, config, on_progress)
    if config.kernel_inject:
        _require_equal_parts(directory, world_size)
    return directory


def _settings_of_ranks(directory: Path, config: EngineConfig, world_size: int) -> Settings:
    """How each rank's own part is written."""
    for_autotp = checked_settings("ranks", world_size, None, DEFAULT_SHARD_SIZE)
    if not config.kernel_inject:
        return for_autotp
    there = read_manifest(Path(config.save_mp_checkpoint_path or "").expanduser())
    if there is not None and there.settings.layout == "ranks":
        return for_autotp  # both can be loaded: what was made for AutoTP, or by hand, will do
    return checked_settings("deepspeed", world_size, _one_dtype(directory, config), DEFAULT_SHARD_SIZE)


def _one_dtype(directory: Path, config: EngineConfig) -> str | None:
    """What to write weights of several dtypes in, as DeepSpeed's form has one; None if they have one already."""
    dtypes = {tensor.dtype for tensor in describe(directory).tensors.values()} & set(CONVERTIBLE)
    if len(dtypes) < 2:
        return None
    if config.dtype != "auto":
        return config.dtype
    # What is written says its dtype in its config.json: "auto" must mean there what it means for the model.
    said = read_model_config(directory)
    return next((said[key] for key in ("dtype", "torch_dtype") if said.get(key) in CONVERTIBLE[:3]), "float32")


def _require_equal_parts(directory: Path, world_size: int) -> None:
    """Refuse weights that AutoTP cut unequally, on every rank alike: a rank whose part fits would wait for the others.

    AutoTP gives ranks whole key-value heads, and an MLP in steps of 64; the kernels give each rank as much.
    """
    description = describe(directory)
    if description.form != "ranks":
        return
    for tensor in description.tensors.values():
        shapes = [piece.tensor.shape for piece in tensor.pieces]
        if len(set(shapes)) > 1:
            raise UnsupportedError(
                what=f"kernel_inject=True with the weights in {directory}",
                why=f"they were cut for AutoTP, {tensor.name} into {' and '.join(map(str, shapes))}, and the kernels "
                "need equal parts",
                instead="Use the original weights, or cut those for the kernels: "
                f"raydsinfer reshard SRC DST --layout deepspeed --tp {world_size}.",
            )


def _made(
    directory: Path, setting: str, settings: Settings, config: EngineConfig, on_progress: OnProgress | None
) -> Path:
    target = Path(getattr(config, setting)).expanduser()
    if target.resolve() == directory.resolve():  # the settings came along with what they made
        return directory
    report = reshard_directory(
        directory,
        target,
        settings,
        origin={"name": str(directory)},
        any_size=True,  # one that was made by hand will do
        trust_remote_code=config.trust_remote_code,
        setting=setting,
        on_progress=on_progress,
    )
    return report.target
