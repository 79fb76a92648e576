"""Two real processes with torch and gloo; no Ray."""

import subprocess
import sys

import pytest

RANK = """
import os, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
from raydsinfer.engines.base import RankContext
from raydsinfer.groups import rendezvous
rank, port = int(sys.argv[1]), int(sys.argv[2])
if rank == 0:
    store = rendezvous.open_store("127.0.0.1", 2, timeout_s=30)
    print(store.port, flush=True)
else:
    store = rendezvous.connect_store("127.0.0.1", port, 2, timeout_s=30)
rendezvous.join_process_group(store, RankContext(world_rank=rank, world_size=2), timeout_s=30)
import torch
import torch.distributed as dist
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(dist.get_backend(), dist.get_rank(), dist.get_world_size(), total.item(), flush=True)
rendezvous.leave_process_group()
rendezvous.leave_process_group()
assert not dist.is_initialized()
"""


def start(rank: int, port: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(port)], stdout=subprocess.PIPE, text=True)


def test_two_processes_meet_on_a_port_that_the_kernel_picked():
    with start(0) as first:
        port = int(first.stdout.readline())
        assert port > 1023
        with start(1, port) as second:
            assert second.stdout.read().split() == ["gloo", "1", "2", "3.0"]
        assert first.stdout.read().split() == ["gloo", "0", "2", "3.0"]
    assert (first.returncode, second.returncode) == (0, 0)


def test_two_stores_never_get_the_same_port():
    pytest.importorskip("torch")
    from raydsinfer.groups.rendezvous import open_store

    stores = [open_store("127.0.0.1", 2, timeout_s=5) for _ in range(8)]
    assert len({store.port for store in stores}) == 8


def test_a_store_that_is_not_there_is_an_error_that_names_it():
    from raydsinfer.errors import EngineError
    from raydsinfer.groups.rendezvous import connect_store

    with pytest.raises(EngineError, match=r"connecting to rank 0 at 127\.0\.0\.1:1"):
        connect_store("127.0.0.1", 1, 2, timeout_s=1)


def test_a_gpu_that_torch_cannot_see_is_an_error_that_says_so():
    import torch

    from raydsinfer.engines.base import RankContext
    from raydsinfer.errors import EngineError
    from raydsinfer.groups.rendezvous import join_process_group, open_store

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    store = open_store("127.0.0.1", 1, timeout_s=5)
    with pytest.raises(EngineError, match="finds no GPU"):
        join_process_group(store, RankContext(device="cuda:0"), timeout_s=5)
