"""Two real processes with torch and gloo; no Ray."""

import os
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
rendezvous.stay_at("127.0.0.1")
rendezvous.join_process_group(store, RankContext(world_rank=rank, world_size=2), timeout_s=30)
import torch
import torch.distributed as dist
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
rendezvous.limit_collectives(7)
late = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout
import psutil
sockets = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
dist.barrier()  # nobody leaves before the other has looked
where = sorted(set(sockets))
print(dist.get_backend(), rank, dist.get_world_size(), total.item(), late.total_seconds(), *where, flush=True)
rendezvous.leave_process_group()
rendezvous.leave_process_group()
assert not dist.is_initialized()
"""


def start(rank: int, port: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(port)], stdout=subprocess.PIPE, text=True)


def test_two_processes_meet_on_a_port_that_the_kernel_picked_and_listen_nowhere_else():
    with start(0) as first:
        port = int(first.stdout.readline())
        assert port > 1023
        with start(1, port) as second:
            assert second.stdout.read().split() == ["gloo", "1", "2", "3.0", "7.0", "127.0.0.1"]
        assert first.stdout.read().split() == ["gloo", "0", "2", "3.0", "7.0", "127.0.0.1"]
    assert (first.returncode, second.returncode) == (0, 0)


def test_two_stores_never_get_the_same_port():
    pytest.importorskip("torch")
    from raydsinfer.groups.rendezvous import open_store

    stores = [open_store("127.0.0.1", 2, timeout_s=5) for _ in range(8)]
    assert len({store.port for store in stores}) == 8


def test_where_it_cannot_listen_at_the_address_it_listens_at_all_and_says_so(caplog):
    from raydsinfer.groups.rendezvous import _listener

    with _listener("192.0.2.1") as listener:  # an address for documentation, which no machine has
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104
    assert "cannot at 192.0.2.1 alone" in caplog.text


def test_what_the_environment_says_about_interfaces_stays(monkeypatch):
    from raydsinfer.groups.rendezvous import stay_at

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    stay_at("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    assert os.environ.pop("NCCL_SOCKET_IFNAME").startswith("=lo")
    stay_at("192.0.2.1")
    assert "NCCL_SOCKET_IFNAME" not in os.environ


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
