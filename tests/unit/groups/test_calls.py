import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from raydsinfer.errors import EngineError, RankDiedError
from raydsinfer.groups.calls import cause_of, death_reason, disagreements

KILLED = """The actor died unexpectedly before finishing this task.
	class_name: Worker
	actor_id: e884
	pid: 7073
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process"""
REMOVED = """The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: INTENDED_SYSTEM_EXIT Worker exit detail: \
Destroying worker since its placement group was removed. Placement group id: e16f"""
NODE_DIED = """The actor died unexpectedly before finishing this task.
	class_name: Worker
	pid: 7073
The actor is dead because its node has died. Node Id: 0880
	the actor's node was terminated unexpectedly: health check failed"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (KILLED, "SIGKILL by the kernel"),
        (REMOVED, "its placement group was removed"),
        (NODE_DIED, "its node has died. Node Id: 0880 the actor's node was terminated unexpectedly"),
        ("The actor is dead because it was killed by `ray.kill`.", "killed by `ray.kill`"),
        ("", "no reason given"),
    ],
)
def test_the_end_of_a_process_is_told_in_one_line(text, told):
    reason = death_reason(text)
    assert told in reason
    assert "\n" not in reason


def test_rays_wrapping_is_taken_off():
    inner = EngineError(doing="generate", reason="out of memory")
    wrapped = RayTaskError("call", "Traceback …", inner).as_instanceof_cause()
    assert cause_of(wrapped, "process 1") is inner


def test_a_dead_actor_becomes_a_rank_that_died():
    cause = cause_of(ActorDiedError(), "process 5 on node n")
    assert isinstance(cause, RankDiedError)
    assert str(cause).startswith("process 5 on node n ended: ")


def test_other_errors_stay_what_they_are():
    error = ValueError("x")
    assert cause_of(error, "process 1") is error


def test_only_ranks_that_differ_from_rank_0_are_named():
    causes = disagreements("generate", ["a", "b", "a", "c"])
    assert sorted(causes) == [1, 3]
    assert "differs from rank 0's" in str(causes[1])
    assert disagreements("generate", ["a", "a"]) == {}
