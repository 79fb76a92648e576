"""Errors are an API: typed fields, text that says the next step, and pickling."""

from __future__ import annotations

import ast
import inspect
import pickle
from pathlib import Path

import pytest

import raydsinfer
from raydsinfer import errors
from raydsinfer.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ClusterCapacityError,
    ConfigurationError,
    CorruptCheckpointError,
    DataError,
    EngineError,
    ErrorRateError,
    GoldenFileError,
    InputError,
    InvalidSettingError,
    KernelBuildError,
    MissingColumnError,
    NodeDiedError,
    NodeTimeoutError,
    OutputError,
    RankDiedError,
    RankTimeoutError,
    RaydsinferError,
    RestartsExhaustedError,
    RowError,
    RowFailedError,
    RunDirectoryError,
    UnknownSettingError,
    UnsupportedError,
    VerificationError,
    WeightsMismatchError,
    WorkerGroupError,
)

EXAMPLES: dict[type[RaydsinferError], RaydsinferError] = {
    type(error): error
    for error in (
        RaydsinferError("plain"),
        ConfigurationError("plain"),
        UnknownSettingError(name="dtyp", known=("dtype", "seed"), where="EngineConfig"),
        InvalidSettingError(name="top_p", value=1.5, expected="at most 1", hint="Try 0.9."),
        UnsupportedError(what="bloom", why="its heads do not split", instead="Use one rank."),
        GoldenFileError(path="/golden.json", reason="is not JSON", hint="Write it again."),
        DataError("plain"),
        MissingColumnError(missing=["promt"], available=["prompt", "id"], wanted_by="feature_columns"),
        RowError(kind="prompt", reason="it is empty"),
        OutputError(path="/out", reason="it exists", hint="Use another path."),
        CheckpointError(path="/model", reason="no config.json"),
        CheckpointNotFoundError(path="/model", reason="no such directory", hint="Check the path."),
        CorruptCheckpointError(path="/model/a.safetensors", reason="truncated"),
        WeightsMismatchError(
            path="/model",
            never_filled=["a.weight"],
            nothing_took=["b.weight"],
            wrong_shape={"c": "(2,) instead of (3,)"},
        ),
        ClusterCapacityError(
            gang="gang-1",
            bundles=({"GPU": 1.0}, {"GPU": 4.0}),
            unplaceable=(1,),
            nodes=("10.0.0.1: GPU 2 of 2 free",),
            waited_s=12.5,
            hint="Add a node.",
        ),
        WorkerGroupError(gang="gang-1", phase="load", causes={1: EngineError(doing="load", reason="no memory")}),
        RankDiedError(process="process 7 on 10.0.0.1", reason="killed by signal 9"),
        RankTimeoutError(
            process="process 7 on 10.0.0.1", timeout_s=1.5, stack="all_reduce", hint="Raise call_timeout_s."
        ),
        InputError(path="/rows.csv", reason="no such file", hint="Check the path."),
        NodeDiedError(node="10.0.0.1", node_id="ab12", reason="the node was lost"),
        NodeTimeoutError(node="10.0.0.1", node_id="ab12", timeout_s=1.5),
        EngineError(doing="generate", reason="CUDA error", hint="Restart."),
        KernelBuildError(doing="building DeepSpeed's kernels", reason="no nvcc"),
        RowFailedError(key="0a1b", row="prompt 'Hello'", reason="prompt: it is empty"),
        ErrorRateError(num_rows=200, num_errors=30, limit=0.1, example="prompt: it is empty"),
        RunDirectoryError(path="/run", reason="another model was used", hint="Use another directory."),
        VerificationError(attempts=(("kernel injection", ("single: token 0: other",)), ("static AutoTP", ("x", "y")))),
        RestartsExhaustedError(gang="gang-1", limit=2, setting="max_restarts", history=("generate: rank 0 died",)),
    )
}


def all_error_classes() -> set[type[RaydsinferError]]:
    found = {errors.RaydsinferError}
    while more := {sub for cls in found for sub in cls.__subclasses__()} - found:
        found |= more
    return {cls for cls in found if cls.__module__ == errors.__name__}


def comparable(value: object) -> object:
    """Exceptions are equal only to themselves: compare type and text instead."""
    if isinstance(value, BaseException):
        return type(value), str(value)
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return value


def test_every_class_has_an_example() -> None:
    assert set(EXAMPLES) == all_error_classes()


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_pickling_keeps_class_text_and_fields(error: RaydsinferError, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert comparable(vars(copy)) == comparable(vars(error))


@pytest.mark.parametrize("error", EXAMPLES.values(), ids=lambda error: type(error).__name__)
def test_a_copy_can_be_raised_and_pickled_again(error: RaydsinferError) -> None:
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))  # noqa: S301
    with pytest.raises(type(error)) as caught:
        raise copy
    assert str(caught.value) == str(error)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = [line.split("─ ")[-1].split()[0] for line in inspect.getdoc(errors).splitlines() if "Error" in line]
    assert sorted(name for name in drawn if name.endswith("Error")) == sorted(c.__name__ for c in all_error_classes())


# The base class of the first depends on the Ray that is installed; the last is Ray Data's, and carries ours; the
# others stay between modules: of serving, where it carries ours, and within the layer-by-layer reference, where it only
# ends a call from the inside.
ELSEWHERE = [
    "engines/verification/replay.py: _Reached",
    "groups/verdicts.py: JobIsOver",
    "predictor.py: PredictorNotSerializableException",
    "serving/failures.py: GangFailed",
    "unwrap.py: ScoringError",
]


def test_no_other_module_defines_an_exception() -> None:
    package = Path(raydsinfer.__file__).parent
    strangers = [
        f"{path.relative_to(package)}: {node.name}"
        for path in package.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert sorted(strangers) == ELSEWHERE


def test_unknown_setting_offers_the_nearest_name() -> None:
    error = UnknownSettingError(name="kernel_injct", known=("kernel_inject", "dtype"), where="EngineConfig")
    assert str(error) == (
        "EngineConfig has no setting 'kernel_injct'. Did you mean 'kernel_inject'? It has: dtype, kernel_inject."
    )


def test_unknown_setting_offers_nothing_when_nothing_is_near() -> None:
    assert "Did you mean" not in str(UnknownSettingError(name="zzz", known=("dtype",), where="EngineConfig"))


def test_missing_column_lists_those_there_are() -> None:
    text = str(MissingColumnError(missing=["a", "b"], available=["id"], wanted_by="keep_columns"))
    assert text == "keep_columns names columns 'a', 'b', but the data has: 'id'."
    assert "has: none" in str(MissingColumnError(missing=["a"], available=[], wanted_by="keep_columns"))


def test_weights_mismatch_names_tensors_and_shortens_long_lists() -> None:
    text = str(WeightsMismatchError(path="/m", never_filled={f"layer.{i}" for i in range(12)}))
    assert "layer.0, layer.1, layer.10, layer.11" in text
    assert "and 4 more" in text
    assert "nothing took" not in text


def test_capacity_names_the_bundle_that_no_node_can_hold() -> None:
    error = EXAMPLES[ClusterCapacityError]
    assert "no node can hold the bundle {'GPU': 4.0} of rank 1" in str(error)
    assert "after 12 s" in str(error)
    assert "10.0.0.1: GPU 2 of 2 free" in str(error)
    assert str(error).endswith("Add a node.")


def test_capacity_without_an_impossible_bundle_says_that_they_were_not_free_together() -> None:
    error = ClusterCapacityError(gang="g", bundles=({"CPU": 1.0}, {"CPU": 1.0}), unplaceable=(), nodes=(), waited_s=1.0)
    assert "2 bundles like {'CPU': 1.0} did not become free together" in str(error)
    assert "Nodes:\n  none" in str(error)


def test_equal_causes_of_ranks_are_merged() -> None:
    same = [ValueError("no memory") for _ in range(2)]
    text = str(WorkerGroupError(gang="g", phase="load", causes={2: same[0], 0: same[1], 1: OSError("disk")}))
    assert text == "g failed in load:\n  rank 0, 2: ValueError: no memory\n  rank 1: OSError: disk"


def test_ranks_that_only_waited_are_shown_by_their_last_calls() -> None:
    stack = (
        "engine thread:\n  a (m.py:1)\n  b (m.py:2)\n  c (m.py:3)\n  d (m.py:4)\n  e (m.py:5)\nthread x:\n  z (m.py:9)"
    )
    error = WorkerGroupError(
        gang="g",
        phase="generate",
        causes={1: RankTimeoutError(process="process 7", timeout_s=3, what="gave no sign of life", stack="f (m.py:6)")},
        stacks={0: stack, 1: "engine thread:\n  f (m.py:6)", 2: "its process is gone", 3: "engine thread:"},
    )
    assert str(error).splitlines() == [
        "g failed in generate:",
        "  rank 1: RankTimeoutError: process 7 gave no sign of life within 3 s (it was in: f (m.py:6)).",
        "  meanwhile rank 0: b (m.py:2) > c (m.py:3) > d (m.py:4) > e (m.py:5)",
        "  meanwhile rank 2: its process is gone",
        "  meanwhile rank 3: engine thread:",
    ]
