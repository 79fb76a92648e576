"""Resharding of a directory, for whoever has one: the library's `reshard`, and ranks about to load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from raydsinfer.checkpoints.resharding.manifest import Layout, Settings
from raydsinfer.checkpoints.resharding.reshard import ReshardReport, reshard_files
from raydsinfer.checkpoints.sizes import OnProgress, parse_size
from raydsinfer.engines.slice_process import fused_rules_in_process, slice_rules_in_process
from raydsinfer.errors import InvalidSettingError

DEFAULT_SHARD_SIZE = "5GB"
"""Small enough to fetch and resume well; files of safetensors are usually cut there."""


def checked_settings(layout: str, tp_size: int | None, dtype: str | None, max_shard_size: str | int) -> Settings:
    """The settings of a reshard.

    Raises:
        InvalidSettingError: They are not ones that can be.
    """
    if layout not in get_args(Layout):
        raise InvalidSettingError(name="layout", value=layout, expected="'layers', 'ranks' or 'deepspeed'")
    cut = layout != "layers"
    if cut != (tp_size is not None) or (tp_size is not None and tp_size < 1):
        expected = "a number of ranks from 1 on" if cut else "to stand with layout='ranks' or 'deepspeed' only"
        hint = "Say for how many ranks to cut: --tp N, tp_size=N." if cut else ""
        raise InvalidSettingError(name="tp_size", value=tp_size, expected=expected, hint=hint)
    if dtype not in (None, "float16", "bfloat16", "float32"):
        raise InvalidSettingError(name="dtype", value=dtype, expected="float16, bfloat16 or float32")
    return Settings(
        layout=layout,  # type: ignore[arg-type]
        tp_size=tp_size,
        dtype=dtype,
        max_shard_bytes=parse_size("max_shard_size", max_shard_size),
    )


def reshard_directory(
    source: Path,
    target: Path,
    settings: Settings,
    *,
    origin: Mapping[str, Any],
    overwrite: bool = False,
    any_size: bool = False,
    trust_remote_code: bool = False,
    setting: str = "target",
    on_progress: OnProgress | None = None,
) -> ReshardReport:
    """Write the weights of a directory in another form; see `reshard_files`, which this tells how to cut."""
    ask = fused_rules_in_process if settings.layout == "deepspeed" else slice_rules_in_process
    return reshard_files(
        source,
        target,
        settings,
        origin=origin,
        rules=lambda: ask(source, settings.tp_size or 1, trust_remote_code=trust_remote_code),
        overwrite=overwrite,
        any_size=any_size,
        setting=setting,
        on_progress=on_progress,
    )
