"""What is measured: engines by name, their settings, their workloads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raydsinfer.bench.throughput.runners import static_tokens
from raydsinfer.bench.workloads import Workload
from raydsinfer.config import EngineConfig
from raydsinfer.errors import InvalidSettingError

ENGINES: dict[str, dict[str, Any]] = {
    "continuous": {"batching": "continuous"},
    "static": {"batching": "static"},
    "kernel-inject": {"batching": "static", "kernel_inject": True},
    "transformers": {"batching": "static", "ds_inference": False},
}
"""Name → what makes it. Static engines are transformers' `generate` over AutoTP, DeepSpeed's kernels, or alone."""


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """One engine and all that it is measured on.

    Args:
        label: In the table: the engine's name, with the settings that were given to it alone.
        model: Directory or name.
        config: Its settings.
        workloads: In the order in which they run.
        warm_up: Runs once before, untimed.
        rounds: How often each workload is timed.
        progress_path: File that gets what was measured so far, for the case that the engine fails later.
    """

    label: str
    model: str
    config: EngineConfig
    workloads: tuple[Workload, ...]
    warm_up: Workload
    rounds: int = 3
    progress_path: str = ""


def engine_configs(
    names: Iterable[str], common: Mapping[str, Any], continuous: Mapping[str, Any]
) -> dict[str, EngineConfig]:
    """Settings by label.

    Args:
        names: ``continuous``, or with settings of its own ``continuous+cuda_graphs=false``.
        common: Settings of all of them.
        continuous: Settings of those that batch continuously, before `common`.

    Raises:
        InvalidSettingError: There is no such engine, it is named twice, or a value is wrong.
        UnknownSettingError: There is no such setting.
    """
    configs: dict[str, EngineConfig] = {}
    for label in names:
        name, *own = label.split("+")
        if name not in ENGINES or label in configs:
            expected = f"each once, of {', '.join(ENGINES)}; NAME+SETTING=VALUE sets something for it alone"
            raise InvalidSettingError(name="engines", value=label, expected=expected)
        kind = ENGINES[name]
        first = continuous if kind["batching"] == "continuous" else {}
        configs[label] = EngineConfig(**{"verify": "off", **first, **common, **settings_from(own), **kind})
    return configs


def tokens_of_a_row(workload: Workload, config: EngineConfig) -> int:
    """What `max_tokens` must be at least: static batches pad their rows, continuous ones do not."""
    if config.batching == "continuous":
        return workload.longest
    return static_tokens(workload.requests, config.max_batch_size)


def sized(config: EngineConfig, workloads: Iterable[Workload]) -> EngineConfig:
    """The settings with room for the longest row of all workloads, unless they say `max_tokens` themselves."""
    if "max_tokens" in config.model_fields_set:
        return config
    return config.replaced({"max_tokens": max(tokens_of_a_row(workload, config) for workload in workloads)})


def settings_from(texts: Iterable[str]) -> dict[str, Any]:
    """Settings of ``NAME=VALUE``; values are read as JSON where they are JSON.

    Raises:
        InvalidSettingError: There is no equals sign.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidSettingError(name="--set", value=text, expected="NAME=VALUE, as in cuda_graphs=false")
        values[name.strip().replace("-", "_")] = _value(value.strip())
    return values


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    try:
        return json.loads(text)
    except ValueError:
        return text
