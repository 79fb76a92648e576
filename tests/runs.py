"""Run directories with a few rows in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.rows.keys import RunIdentity, row_keys, run_identity
from raydsinfer.rows.request import Row
from raydsinfer.runs.store import RunStore

ECHO = EngineSpec(model="echo", config=EngineConfig(engine="echo"))
IDENTITY = run_identity(ECHO)
CALL = GenerationConfig()


def keys_of(numbers: Iterable[int], identity: RunIdentity = IDENTITY, call: GenerationConfig = CALL) -> list[bytes]:
    return row_keys([Row(prompt=f"prompt {number}") for number in numbers], call, identity)


def answers_to(numbers: Sequence[int], *, failed: Iterable[int] = (), suffix: str = "") -> pa.Table:
    bad = set(failed)
    return pa.table(
        {
            "output": pa.array(["" if n in bad else f"answer {n}{suffix}" for n in numbers], pa.string()),
            "finish_reason": pa.array(["error" if n in bad else "stop" for n in numbers], pa.string()),
            "num_prompt_tokens": pa.array([3 for _ in numbers], pa.int64()),
            "num_output_tokens": pa.array([0 if n in bad else 2 for n in numbers], pa.int64()),
            "error": pa.array([f"row {n} is bad" if n in bad else "" for n in numbers], pa.string()),
        }
    )


def begun(run_dir: object, *, num_rows: int | None = None, resume: bool = False) -> RunStore:
    store = RunStore(str(run_dir))
    store.begin(IDENTITY, num_rows=num_rows, resume=resume, generation=CALL)
    return store


def commit(store: RunStore, numbers: Sequence[int], *, failed: Iterable[int] = (), suffix: str = "") -> None:
    store.commit(keys_of(numbers), answers_to(numbers, failed=failed, suffix=suffix), seconds=2.0, num_restarts=0)


def found(store: RunStore, numbers: Sequence[int], *, retry_failed: bool = False) -> dict[int, str]:
    """Number → output of the rows that an index of now finds."""
    index = store.build_index(retry_failed=retry_failed)
    places = dict(zip(numbers, index.find(keys_of(numbers)), strict=True))
    there = {number: place for number, place in places.items() if place}
    outputs = index.read(list(there.values()), ["output"])["output"].to_pylist() if there else []
    return dict(zip(there, outputs, strict=True))
