"""Run large language models over data sets: DeepSpeed shards the model, Ray Data streams the rows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydsinfer.batch_predictor import BatchPredictor
    from raydsinfer.checkpoint import DeepSpeedCheckpoint
    from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig, RecoveryConfig
    from raydsinfer.deepspeed_predictor import DeepSpeedPredictor
    from raydsinfer.groups.worker_group import WorkerGroup
    from raydsinfer.nodes import run_on_every_node
    from raydsinfer.predictor import Predictor
    from raydsinfer.resharding import reshard
    from raydsinfer.runs.reading import read_run

__version__ = "0.1.0"

_HOMES = {
    "BatchPredictor": "batch_predictor",
    "DeepSpeedCheckpoint": "checkpoint",
    "DeepSpeedPredictor": "deepspeed_predictor",
    "EngineConfig": "config",
    "GangConfig": "config",
    "GenerationConfig": "config",
    "Predictor": "predictor",
    "RecoveryConfig": "config",
    "WorkerGroup": "groups.worker_group",
    "read_run": "runs.reading",
    "reshard": "resharding",
    "run_on_every_node": "nodes",
}
__all__ = [
    "BatchPredictor",
    "DeepSpeedCheckpoint",
    "DeepSpeedPredictor",
    "EngineConfig",
    "GangConfig",
    "GenerationConfig",
    "Predictor",
    "RecoveryConfig",
    "WorkerGroup",
    "read_run",
    "reshard",
    "run_on_every_node",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raydsinfer' has no attribute {name!r}")
    return getattr(import_module(f"raydsinfer.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
