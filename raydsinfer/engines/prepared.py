"""The directory that a gang loads from: the model's own, or one that is made from it once."""

from __future__ import annotations

from pathlib import Path

from raydsinfer.checkpoints.resharding.manifest import Layout, Settings, read_manifest
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.config import EngineConfig
from raydsinfer.engines.resharding import DEFAULT_SHARD_SIZE, checked_settings, reshard_directory

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
    """
    if config.reshard_checkpoint_path is not None:
        settings = checked_settings("layers", None, None, _NO_LIMIT)
        directory = _made(directory, "reshard_checkpoint_path", settings, config, on_progress)
    if config.save_mp_checkpoint_path is not None:
        settings = checked_settings(_layout(config), world_size, None, DEFAULT_SHARD_SIZE)
        directory = _made(directory, "save_mp_checkpoint_path", settings, config, on_progress)
    return directory


def _layout(config: EngineConfig) -> Layout:
    """The layout of each rank's own part."""
    if not config.kernel_inject:
        return "ranks"
    there = read_manifest(Path(config.save_mp_checkpoint_path or "").expanduser())
    # Both can be loaded: what was made for AutoTP, or by hand, will do.
    return "ranks" if there is not None and there.settings.layout == "ranks" else "deepspeed"


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
