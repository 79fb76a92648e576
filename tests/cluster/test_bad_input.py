"""Calls that cannot be, and files that break on the way, where the answer takes a Ray; the others are unit tests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig
from raydsinfer.errors import (
    InvalidSettingError,
    MissingColumnError,
    RaydsinferError,
    RunDirectoryError,
    UnknownSettingError,
)
from tests.clusters import assert_nothing_left
from tests.commands import Commands

CHECKPOINT = DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(engine="echo", max_tokens=64))


@pytest.fixture(scope="module", autouse=True)
def nothing_left_of_module(local_ray: None) -> Iterator[None]:
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    assert_nothing_left()


def predict(given: dict[str, Any]) -> Any:
    """A call whose arguments are those of a good one, but for some."""
    told = {"checkpoint": CHECKPOINT, "data": ray.data.from_items([{"prompt": "a", "id": 1}]), **given}
    kwargs = {name: told.pop(name) for name in list(told) if name.endswith("_config")}
    predictor = BatchPredictor.from_checkpoint(told.pop("checkpoint"), DeepSpeedPredictor, **kwargs)
    return predictor.predict(told.pop("data"), **told)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"checkpoint": None}, InvalidSettingError, "checkpoint=None"),
        ({"checkpoint": "facebook/opt-125m"}, InvalidSettingError, "from_pretrained"),
        ({"data": pd.DataFrame({"prompt": ["a"]})}, InvalidSettingError, r"a ray\.data\.Dataset"),
        ({"scaling_config": {"num_workers": 2}}, InvalidSettingError, "a ScalingConfig"),
        ({"scaling_config": ScalingConfig(num_workers=0)}, InvalidSettingError, "num_workers=0"),
        ({"gang_config": {"lease_ttl_s": 1.0}}, InvalidSettingError, "a GangConfig"),
        ({"recovery_config": {"max_restarts": 1}}, InvalidSettingError, "a RecoveryConfig"),
        ({"batch_size": math.nan}, InvalidSettingError, "batch_size=nan"),
        ({"batch_size": True}, InvalidSettingError, "batch_size=True"),
        ({"max_scoring_workers": math.nan}, InvalidSettingError, "max_scoring_workers=nan"),
        ({"num_gpus_per_worker": math.nan}, InvalidSettingError, "num_gpus_per_worker=nan"),
        ({"num_gpus_per_worker": -1}, InvalidSettingError, "num_gpus_per_worker=-1"),
        ({"num_gpus_per_worker": "2"}, InvalidSettingError, "num_gpus_per_worker='2'"),
        ({"num_cpus_per_worker": -0.5}, InvalidSettingError, "num_cpus_per_worker=-0.5"),
        ({"ray_remote_args": [1]}, InvalidSettingError, "arguments by name"),
        ({"keep_columns": "id"}, InvalidSettingError, r"Write \['id'\]"),
        ({"keep_columns": ["nr"]}, MissingColumnError, "'prompt', 'id'"),
        ({"feature_columns": 3}, InvalidSettingError, "a list of names"),
        ({"temprature": 1.0}, UnknownSettingError, "Did you mean 'temperature'"),
        ({"temperature": math.nan}, InvalidSettingError, "temperature=nan"),
        ({"run_dir": 5}, InvalidSettingError, "run_dir=5"),
        ({"run_dir": ""}, RunDirectoryError, "is no path"),
        ({"run_dir": "/etc/passwd"}, RunDirectoryError, "Not a directory"),
        ({"run_dir": "/etc"}, RunDirectoryError, "holds other files"),
        ({"run_dir": "/proc/x/y"}, RunDirectoryError, "Check the path"),
        ({"run_dir": "/tmp/a\0b"}, RunDirectoryError, "Check the path"),
        ({"run_dir": "nosuch://x"}, RunDirectoryError, "nothing installed here knows"),
        ({"run_dir": "TMP", "duplicates": "twice"}, InvalidSettingError, "duplicates='twice'"),
        ({"run_dir": "TMP", "duplicates": "each"}, InvalidSettingError, "key_column"),
        ({"run_dir": "TMP", "key_column": "nr", "duplicates": "each"}, MissingColumnError, "'nr'"),
        ({"run_dir": "TMP", "num_rows": -1}, InvalidSettingError, "num_rows=-1"),
        ({"retry_failed": True}, InvalidSettingError, "with run_dir"),
    ],
)
def test_calls_that_cannot_be_start_nothing(
    tmp_path: Path, given: dict[str, Any], kind: type[RaydsinferError], words: str
) -> None:
    if given.get("run_dir") == "TMP":
        given = {**given, "run_dir": str(tmp_path / "run")}
    with pytest.raises(kind, match=words):
        predict(given)
    assert not list(tmp_path.iterdir())


def mangled(path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"prompt {i}" for i in range(1000)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"\xff" * 200 + content[220:])


def text_that_is_none(path: Path) -> None:
    ends, texts = np.array([0, 4, 6], dtype="int32"), b"fine\xff\xfe"
    column = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(texts)])
    pq.write_table(pa.table({"prompt": column}), path)


def generate(tmp_path: Path) -> tuple[int, str]:
    """Exit code and messages of the command, on the file ``p.parquet``."""
    with Commands() as commands:
        words = ["generate", "none", f"{tmp_path}/p.parquet", f"{tmp_path}/o.jsonl", "--engine", "echo"]
        code, _, said = commands.run(*words, "--cpu-ranks", "1")
    return code, said


def test_a_file_that_breaks_on_the_way_is_named(tmp_path: Path) -> None:
    """Its first and last bytes are right: only reading its rows shows it."""
    mangled(tmp_path / "p.parquet")
    code, said = generate(tmp_path)
    assert code == 2
    assert "p.parquet: " in said
    assert "not readable as parquet" in said
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_a_cell_that_is_no_text_costs_its_own_row_only(tmp_path: Path) -> None:
    text_that_is_none(tmp_path / "p.parquet")
    code, _ = generate(tmp_path)
    assert code == 3
    good, bad = (json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines())
    assert (good["output"], good["error"]) == ("fine", "")
    assert "not readable" in bad["error"]
