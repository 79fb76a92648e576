"""Which way to run a model comes next, and when there is none."""

import pytest

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import (
    EngineError,
    GoldenFileError,
    KernelBuildError,
    RankDiedError,
    UnsupportedError,
    VerificationError,
    WorkerGroupError,
)
from raydsinfer.groups.descent import Descent


def failure(*causes):
    return WorkerGroupError(gang="g", phase="load", causes=dict(enumerate(causes)))


def wrong(rung, line="single: token 0: other"):
    return failure(RankDiedError(process="p", reason="killed"), VerificationError(attempts=((rung, (line,)),)))


def descent(num_ranks=1, **config):
    return Descent(EngineSpec(model="m", config=EngineConfig(**config)), num_ranks)


def test_down_to_a_way_that_is_right():
    walk = descent(kernel_inject=True)
    assert walk.goes_on(wrong("kernel injection"))
    assert walk.spec.config.batching == "continuous"
    assert walk.note == (
        "the model's text is not right: kernel injection: single: token 0: other. Next: continuous AutoTP"
    )
    why = UnsupportedError(what="continuous batching of this model", why="its attention is odd", instead="x")
    assert walk.goes_on(failure(why)), "a way that the model does not have is left out"
    assert walk.spec.config.batching == "static"
    walk.arrived()
    assert [rung for rung, _ in walk.attempts] == ["kernel injection", "continuous AutoTP"]
    assert walk.attempts[1][1][0].startswith("not possible: continuous batching of this model")


def test_none_is_right():
    walk = descent(num_ranks=2)
    assert walk.goes_on(wrong("continuous AutoTP"))
    with pytest.raises(VerificationError) as caught:
        walk.goes_on(wrong("static AutoTP"))
    assert [rung for rung, _ in caught.value.attempts] == ["continuous AutoTP", "static AutoTP"]


def test_strict_ends_at_the_first():
    with pytest.raises(VerificationError) as caught:
        descent(kernel_inject=True, strict=True).goes_on(wrong("kernel injection"))
    assert [rung for rung, _ in caught.value.attempts] == ["kernel injection"]


@pytest.mark.parametrize(
    "cause",
    [
        EngineError(doing="load", reason="no memory"),
        RankDiedError(process="p", reason="killed"),
        UnsupportedError(what="bloom", why="x", instead="y"),
        GoldenFileError(path="/g", reason="is not JSON"),
    ],
)
def test_other_failures_are_none_of_its_business(cause):
    walk = descent(kernel_inject=True)
    before = walk.spec
    assert not walk.goes_on(failure(cause))
    assert walk.spec is before


def unbuilt():
    reasons = ("no nvcc\n  and so on", "no nvcc")
    return failure(*(KernelBuildError(doing="building", reason=reason, hint="Install it.") for reason in reasons))


def test_kernels_that_auto_chose_and_cannot_have():
    walk = descent(engine="auto", strict=True, num_ranks=2)
    assert walk.goes_on(unbuilt())
    assert walk.note == (
        "kernel injection: not possible: DeepSpeed's kernels cannot be built: no nvcc. Next: continuous AutoTP"
    )
    assert (walk.spec.config.engine, walk.spec.config.batching) == ("deepspeed", "continuous")
    assert walk.goes_on(failure(UnsupportedError(what="continuous", why="odd", instead="static")))
    assert walk.spec.config.batching == "static"


def test_a_copy_for_the_kernels_is_left_alone_without_them():
    walk = descent(kernel_inject=True, save_mp_checkpoint_path="/copy", num_ranks=2)
    assert walk.goes_on(wrong("kernel injection"))
    assert walk.spec.config.save_mp_checkpoint_path is None
    assert walk.note.endswith(
        "Next: continuous AutoTP, without save_mp_checkpoint_path, whose weights are for the kernels"
    )
    assert walk.goes_on(wrong("continuous AutoTP"))
    assert walk.note.endswith("Next: static AutoTP")


def test_kernels_that_were_asked_for_are_an_error():
    for engine in ("deepspeed", "auto"):
        assert not descent(kernel_inject=True, engine=engine).goes_on(unbuilt())


def test_a_way_that_follows_on_kernels_that_were_right_is_compared_itself():
    walk = descent(engine="auto")
    walk.arrived()
    assert walk.spec.config.verify == "off"
    assert walk.goes_on(unbuilt()), "the gang starts again on another node"
    assert walk.spec.config.verify == "once"


def test_a_model_that_needs_kernels_that_cannot_be_built():
    walk, first = descent(engine="auto", num_ranks=2), unbuilt()
    why = failure(UnsupportedError(what="gpt2 on 2 ranks", why="no AutoTP", instead="one"))
    assert walk.goes_on(first)
    assert walk.goes_on(why)
    with pytest.raises(WorkerGroupError) as caught:
        walk.goes_on(why)
    assert caught.value is first


def test_a_golden_file_that_is_of_no_use_is_no_reason_to_go_further_down():
    walk = descent(kernel_inject=True)
    assert walk.goes_on(wrong("kernel injection"))
    assert not walk.goes_on(failure(GoldenFileError(path="/g", reason="is not JSON")))


def test_a_gang_that_starts_again_is_not_checked_again_unless_always():
    for verify, afterwards in (("once", "off"), ("always", "always"), ("off", "off")):
        walk = descent(verify=verify)
        walk.arrived()
        assert walk.spec.config.verify == afterwards


def test_after_it_has_arrived_settings_that_cannot_be_are_an_error_again():
    walk = descent()
    assert walk.goes_on(wrong("continuous AutoTP"))
    walk.arrived()
    assert not walk.goes_on(failure(UnsupportedError(what="bloom", why="x", instead="y")))
