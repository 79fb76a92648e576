from dataclasses import replace

import pytest

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.network import HubFound, RayCluster, RayFound
from tests.unit.doctor.machines import h100s, verdict

SAME = RayCluster(address="10.0.0.1:6379", version="2.60.0", python="3.12")


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "green", "none runs here"),
        ({"clusters": (SAME,)}, "green", "running: GCS at 10.0.0.1:6379 (Ray 2.60.0, Python 3.12)"),
        ({"clusters": (SAME, replace(SAME, address="10.0.0.1:7000"))}, "green", "10.0.0.1:6379, 10.0.0.1:7000 ("),
        ({"clusters": (replace(SAME, version="2.53.0"),)}, "yellow", "not the same"),
        ({"clusters": (replace(SAME, python="3.10"),)}, "yellow", "not the same"),
        ({"clusters": (replace(SAME, version="", python=""),)}, "green", "unknown version"),
        ({"address": "10.0.0.9:6379"}, "green", "RAY_ADDRESS=10.0.0.9:6379"),
        ({"address": "10.0.0.9:6379", "address_problem": "nothing answers there"}, "red", "nothing answers there"),
        ({"port_taken": True}, "yellow", "port 6379"),
    ],
)
def test_a_running_ray(changes: dict[str, object], level: str, says: str) -> None:
    found = RayFound(version="2.60.0", python="3.12", **changes)  # type: ignore[arg-type]
    told = verdict(replace(h100s(), ray=found), "Ray")
    assert (told.level, says in told.found, bool(told.cure)) == (level, True, level != "green")


def test_a_ray_that_cannot_start_says_its_last_line() -> None:
    failed = ProbeFailed(reason="no answer within 120 s", output="a\nraylet: no space left on device")
    told = verdict(replace(h100s(), local_ray=failed), "local Ray")
    assert told.level == "red"
    assert told.found == "none can be started: no answer within 120 s; last it said: raylet: no space left on device"
    again = ProbeFailed(reason="OSError: full", output="Traceback\nOSError: full")
    assert verdict(replace(h100s(), local_ray=again), "local Ray").found.count("OSError: full") == 1


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (HubFound(endpoint="https://hub", user="me"), "green", "token of me"),
        (HubFound(endpoint="https://hub"), "green", "no token"),
        (
            HubFound(endpoint="https://hub", problem="ConnectError: refused"),
            "yellow",
            "https://hub ConnectError: refused",
        ),
        (ProbeFailed(reason="no answer within 120 s"), "yellow", "no answer"),
    ],
)
def test_the_hub(found: HubFound | ProbeFailed, level: str, says: str) -> None:
    told = verdict(replace(h100s(), hub=found), "hub")
    assert (told.level, says in told.found) == (level, True)
