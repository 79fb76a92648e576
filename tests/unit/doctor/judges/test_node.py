from dataclasses import replace

import pytest

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.node import DirectoryFound, LimitsFound, NodeFound
from tests.unit.doctor.machines import GIB, directory, h100s, laptop, node, verdict

DOCKERS_SHM = 64 * 2**20


def test_dockers_shared_memory_is_little_for_two_gpus() -> None:
    tiny = replace(h100s(), node=node(shm_bytes=DOCKERS_SHM, shm_free_bytes=DOCKERS_SHM))
    shm = verdict(tiny, "/dev/shm")
    assert (shm.level, "64.0 MiB of 64.0 MiB free: little for NCCL between 2 GPUs" in shm.found) == ("yellow", True)
    assert "--shm-size=155g" in shm.cure  # 0.3 of 512 GiB, and one
    assert verdict(replace(tiny, all_reduce=ProbeFailed(reason="no answer")), "/dev/shm").level == "red"
    assert "little for NCCL" not in verdict(replace(laptop(), node=tiny.node), "/dev/shm").found


def test_host_memory_for_the_ranks() -> None:
    assert verdict(h100s(), "host memory").level == "green"
    little = verdict(replace(h100s(), node=node(available_bytes=3 * GIB)), "host memory")
    assert (little.level, "little for 2 ranks" in little.found) == ("yellow", True)
    assert verdict(replace(laptop(), node=node(available_bytes=GIB)), "host memory").level == "green"


def test_no_shared_memory_at_all() -> None:
    assert verdict(replace(h100s(), node=node(shm_bytes=0, shm_free_bytes=0)), "/dev/shm").level == "yellow"


@pytest.mark.parametrize(
    ("memory", "free", "level"),
    [(100 * GIB, 29 * GIB, "yellow"), (100 * GIB, 31 * GIB, "green"), (4096 * GIB, 190 * GIB, "green")],
)
def test_what_rays_object_store_wants(memory: int, free: int, level: str) -> None:
    found = node(memory_bytes=memory, shm_bytes=memory // 2, shm_free_bytes=free)
    assert verdict(replace(h100s(), node=found), "/dev/shm").level == level


@pytest.mark.parametrize(
    ("limits", "level", "cure"),
    [
        (LimitsFound(open_files=None, processes=None, locked_bytes=None), "green", ""),
        (LimitsFound(open_files=4096, processes=None, locked_bytes=None), "yellow", "ulimit -Hn"),
        (LimitsFound(open_files=512, processes=None, locked_bytes=None), "red", "ulimit -Hn"),
        (LimitsFound(open_files=None, processes=2048, locked_bytes=None), "yellow", "--pids-limit"),
        (LimitsFound(open_files=4096, processes=100, locked_bytes=None), "red", "ulimit -Hn"),
        (LimitsFound(open_files=None, processes=None, locked_bytes=65536), "green", ""),
        (LimitsFound(open_files=None, processes=None, locked_bytes=65536, infiniband=True), "yellow", "memlock=-1"),
    ],
)
def test_limits(limits: LimitsFound, level: str, cure: str) -> None:
    found = verdict(replace(h100s(), node=node(limits=limits)), "limits")
    assert (found.level, cure in found.cure, bool(found.cure)) == (level, True, bool(cure))


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (directory(), "green", "500.0 GiB of 900.0 GiB free"),
        (directory(free_bytes=5 * GIB), "yellow", "that is little"),
        (directory(problem="its file system is mounted noexec"), "red", "noexec"),
        (directory(role="Ray's sessions", free_bytes=40 * GIB), "red", "95% full"),
        (directory(role="compiled ops", free_bytes=GIB // 2), "yellow", "512.0 MiB"),
    ],
)
def test_directories(found: DirectoryFound, level: str, says: str) -> None:
    machine = replace(h100s(), node=node(directories=(found,)))
    assert isinstance(machine.node, NodeFound)
    told = verdict(machine, found.role)
    assert (told.level, says in told.found, "HF_HOME" in told.cure) == (level, True, level != "green")
