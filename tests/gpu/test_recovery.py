"""Gangs on GPUs that are taken down in the middle of decoding: every row is right, and the GPU is free afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.train import ScalingConfig
from transformers import AutoTokenizer

from raydsinfer import DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig
from tests.gpu.conftest import num_gpus
from tests.gpu.shapes import SHAPES
from tests.models import prompts, write_tiny_model

NUM_ROWS, NEW_TOKENS = 24, 400


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {**SHAPES["opt"], "max_position_embeddings": 1024}
    return write_tiny_model("opt", tmp_path_factory.mktemp("model") / "opt", scale=1.5, **shape)


def rows(directory: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return [tokenizer.decode(ids) for ids in prompts([4 + index % 17 for index in range(NUM_ROWS)])]


def used_bytes() -> int:
    """Of all GPUs, as the driver counts; asking torch would take memory itself."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    nvml.nvmlInit_v2()

    class Memory(ctypes.Structure):
        _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))

    used = 0
    for index in range(num_gpus()):
        handle, memory = ctypes.c_void_p(), Memory()
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        used += memory.used
    return used


def answers_despite(directory: Path, tp: int, strike: Callable[[DeepSpeedPredictor], Any]) -> tuple[Any, Any, int]:
    """The answers of an undisturbed gang, those of one that is struck in the middle, and its restarts."""
    before = used_bytes()
    config = EngineConfig(dtype="float32", max_tokens=512, max_running=32, torch_compile=False)
    scaling = ScalingConfig(num_workers=tp, use_gpu=True)
    checkpoint = DeepSpeedCheckpoint.from_pretrained(directory, config)
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    data = {"prompt": np.array(rows(directory), dtype=object)}
    with DeepSpeedPredictor.from_checkpoint(checkpoint, scaling_config=scaling, on_progress=print) as predictor:
        assert predictor.group.load_report.batching == "continuous"
        undisturbed = predictor.predict(data, **settings)
        striker = threading.Timer(0.7, strike, [predictor])
        striker.start()
        struck = predictor.predict(data, **settings)
        striker.join()
        num_restarts = predictor.num_restarts
    deadline = time.monotonic() + 15
    while used_bytes() > before + 2**28 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert used_bytes() <= before + 2**28, "GPU memory was not given back"
    return undisturbed, struck, num_restarts


def test_a_rank_that_is_killed(cluster: Path, directory: Path, tp: int) -> None:

    def strike(predictor: DeepSpeedPredictor) -> None:
        os.kill(predictor.group.ranks[-1].pid, signal.SIGKILL)

    undisturbed, struck, num_restarts = answers_despite(directory, tp, strike)
    assert num_restarts == 1
    assert list(struck["error"]) == [""] * NUM_ROWS
    assert list(struck["output"]) == list(undisturbed["output"])
    assert set(struck["num_output_tokens"]) == {NEW_TOKENS}


def test_an_illegal_memory_access(cluster: Path, directory: Path, tp: int) -> None:
    undisturbed, struck, num_restarts = answers_despite(directory, tp, lambda predictor: cluster.touch())
    assert num_restarts == 1
    assert list(struck["error"]) == [""] * NUM_ROWS
    assert list(struck["output"]) == list(undisturbed["output"])
