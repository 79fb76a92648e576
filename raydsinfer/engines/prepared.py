"""The directory that a gang loads from: the model's own, or one that is made from it once."""

from __future__ import annotations

from pathlib import Path

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
        directory = _made(directory, "reshard_checkpoint_path", None, config, on_progress)
    if config.save_mp_checkpoint_path is not None:
        directory = _made(directory, "save_mp_checkpoint_path", world_size, config, on_progress)
    return directory


def _made(
    directory: Path, setting: str, tp_size: int | None, config: EngineConfig, on_progress: OnProgress | None
) -> Path:
    target = Path(getattr(config, setting)).expanduser()
    if target.resolve() == directory.resolve():  # the settings came along with what they made
        return directory
    layout, shard_size = ("layers", _NO_LIMIT) if tp_size is None else ("ranks", DEFAULT_SHARD_SIZE)
    report = reshard_directory(
        directory,
        target,
        checked_settings(layout, tp_size, None, shard_size),
        origin={"name": str(directory)},
        any_size=True,  # one that was made by hand will do
        trust_remote_code=config.trust_remote_code,
        setting=setting,
        on_progress=on_progress,
    )
    return report.target
