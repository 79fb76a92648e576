"""Weights in another form: each layer whole in one file, or each rank's own part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from raydsinfer.checkpoints.resharding.reshard import ReshardReport
from raydsinfer.checkpoints.sizes import OnProgress
from raydsinfer.checkpoints.sources.fetch import local_directory
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.engines.resharding import DEFAULT_SHARD_SIZE, checked_settings, reshard_directory


def reshard(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    layout: Literal["layers", "ranks", "deepspeed"] = "layers",
    tp_size: int | None = None,
    dtype: Literal["float16", "bfloat16", "float32"] | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    revision: str | None = None,
    hf_home: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    on_progress: OnProgress | None = None,
) -> ReshardReport:
    """Write a model's weights in another form into a directory, with all its small files.

    Any family, any size: the weights are streamed, so that host memory holds a few blocks of them.
    The directory appears when it is whole and every file was read back. An interrupted run goes on
    where it was; two at once on one target write it once.

    Args:
        source: Local directory, URL that fsspec knows, or hub name.
        target: Local directory to make.
        layout: ``layers``: each decoder layer whole in one safetensors file, as every tool reads them.
            ``ranks``: each rank's own part, as DeepSpeed cuts it, for gangs of `tp_size` ranks.
            ``deepspeed``: the same in the form of DeepSpeed's fused layers, which its own loader reads too; for
            families that have kernels.
        tp_size: Number of ranks; not for ``layers``.
        dtype: Of all floating tensors in the target; None keeps each as it is.
        max_shard_size: Largest file, like ``5GB``. A tensor alone may be larger, a layer not.
        revision: Branch, tag or commit on the hub.
        hf_home: Directory for fetched models; None means the hub library's own.
        overwrite: Whether to replace an older reshard at the target.
        trust_remote_code: Whether Python code in the source may run; not for ``layers``.
        on_progress: Told of bytes done and bytes in all, while a model is fetched and again while it is
            written; called from several threads, one at a time.

    Returns:
        What was done; also if the target was there already.

    Raises:
        ConfigurationError: Settings that cannot be, or a target inside the source.
        CheckpointError: There is no such model, or its files are wrong or do not fit the settings.
        OutputError: The target holds something else, or cannot be written.
    """
    settings = checked_settings(layout, tp_size, dtype, max_shard_size)
    directory = local_directory(os.fspath(source), revision=revision, hf_home=hf_home, on_progress=on_progress)
    origin = {"name": without_secrets(os.fspath(source)), "revision": revision}
    return reshard_directory(
        directory,
        Path(target),
        settings,
        origin=origin,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        on_progress=on_progress,
    )
