"""The public names, and what importing them costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import raydsinfer

PUBLIC = [
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
HEAVY = ["torch", "deepspeed", "transformers", "ray.data"]


def loaded_after(statement: str) -> list[str]:
    """Which of the heavy modules a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return list(json.loads(answer.stdout.splitlines()[-1]))


def test_public_names_are_these() -> None:
    assert raydsinfer.__all__ == PUBLIC
    assert dir(raydsinfer) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(raydsinfer, name)
    assert value.__name__ == name
    assert len(value.__doc__) > 20


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        raydsinfer.Predicter  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import raydsinfer",
        "from raydsinfer import EngineConfig, GangConfig, GenerationConfig",
        "import raydsinfer.errors",
        "import raydsinfer.engines",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement) == []


def test_the_check_above_can_fail() -> None:
    assert loaded_after("import ray.data") == ["ray.data"]
