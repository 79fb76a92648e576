from raydsinfer.planning.holders import Actor, Group, Held, who_holds

JOB = "01000000"


def actor(kind: str, num_gpus: float, group_id: str = "", **changes: object) -> Actor:
    values = {"actor_id": f"aa{JOB}", "kind": kind, "name": "", "node_id": "n1", "pid": 7, **changes}
    return Actor(num_gpus=num_gpus, group_id=group_id, **values)  # type: ignore[arg-type]


def test_groups_actors_and_what_is_left() -> None:
    group = Group(group_id=f"abcdef0123{JOB}", name="", gpus_by_node={"n1": 2.0, "n2": 1.0})
    held = Held(
        groups=(group,),
        actors=(actor("Worker", 0, group.group_id), actor("Hog", 1.0, name="lonely", node_id="n2", pid=9)),
        jobs={JOB: "python train.py --token hf_x https://u:hf_x@host"},
    )
    first, second, third, fourth = who_holds(held, {"n1": 2.0, "n2": 2.5})
    assert (first.num_gpus, first.who) == (2, "placement group abcdef01 with Worker (pid 7)")
    assert (second.num_gpus, second.who) == (1, "placement group abcdef01 with nothing that runs")
    assert (third.num_gpus, third.who, third.job) == (1, "actor lonely (pid 9)", "python train.py …")
    assert (fourth.node_id, fourth.num_gpus, "dashboard" in fourth.who) == ("n2", 0.5, True)
    assert {holder.job for holder in (first, second)} == {"python train.py …"}


def test_nobody() -> None:
    assert who_holds(Held(), {}) == []


def test_ray_that_tells_nothing() -> None:
    (only,) = who_holds(Held(problem="this Ray does not tell"), {"n1": 3.0})
    assert (only.num_gpus, only.job) == (3.0, "")
