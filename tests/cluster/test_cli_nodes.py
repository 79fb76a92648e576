"""`raydsinfer nodes` on two nodes, as a user runs it: lines, exit codes, and no process left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from raydsinfer.groups.nodes import alive_nodes
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left, several_nodes
from tests.commands import Commands, finish, wait_until


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with several_nodes(0, 1) as cluster:
        cluster.wait_for_nodes()
        yield cluster
        assert_nothing_left()


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


def names() -> list[str]:
    return [f"{node.ip} ({node.node_id[:8]})" for node in alive_nodes()]


def hanging(notes: Path) -> list[str]:
    """A command that never ends, with a child that has a process group of its own; both write their ids."""
    return ["bash", "-c", f"echo $$ >> {notes}; timeout 900 bash -c 'echo $$ >> {notes}; sleep 900'; true"]


def written_pids(notes: Path, number: int) -> list[int]:
    wait_until(lambda: notes.exists() and len(notes.read_text().split()) >= number)
    return [int(word) for word in notes.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_the_list(commands: Commands, two_nodes: Cluster) -> None:
    code, out, _ = commands.run("nodes", "list")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert (code, rows) == (0, [[node.node_id, node.ip, "2", f"{node.num_gpus:g}"] for node in alive_nodes()])
    code, out, _ = commands.run("nodes", "list", "--json", "--gpu-only")
    (only,) = json.loads(out)
    assert (code, only["num_gpus"], only["num_cpus"]) == (0, 1, 2)


def test_lines_of_each_node_under_its_name(commands: Commands, two_nodes: Cluster) -> None:
    code, out, err = commands.run(
        "nodes", "run", "--", "bash", "-c", 'echo $0 "$@"; echo oops >&2', "a_b", "--c_d", "*"
    )
    assert code == 0
    assert sorted(out.splitlines()) == sorted(f"{name} | a_b --c_d *" for name in names())
    said = err.splitlines()
    assert sorted(line for line in said if "|" in line) == sorted(f"{name} | oops" for name in names())
    assert [line.split()[:3] for line in said[-2:]] == [[*name.split(), "0"] for name in names()]
    assert_nothing_left()


def test_much_output_comes_whole_and_in_order(commands: Commands, two_nodes: Cluster) -> None:
    code, out, _ = commands.run("nodes", "run", "--", "seq", "1", "300000")
    by_name: dict[str, list[str]] = {}
    for line in out.splitlines():
        name, _, text = line.partition(" | ")
        by_name.setdefault(name, []).append(text)
    assert code == 0
    assert sorted(by_name) == sorted(names())
    assert all(lines == [str(number) for number in range(1, 300_001)] for lines in by_name.values())


def test_a_node_where_it_fails(commands: Commands, two_nodes: Cluster, tmp_path: Path) -> None:
    # Whoever makes the directory is first.
    script = f"mkdir {tmp_path}/taken 2> /dev/null && exit 3; sleep 0.5; echo went on"
    code, out, err = commands.run("nodes", "run", "--", "bash", "-c", script)
    assert code == 1
    assert out.count("went on") == 1
    assert sorted(line.split()[2] for line in err.splitlines()[-2:]) == ["0", "3"]
    code, _, err = commands.run("nodes", "run", "--gpu-only", "--", "no-such-command")
    assert code == 1
    assert "No such file or directory: 'no-such-command'" in err
    assert err.splitlines()[-1].split()[2] == "127"
    assert_nothing_left()


def test_time_is_up(commands: Commands, two_nodes: Cluster, tmp_path: Path) -> None:
    code, _, err = commands.run("nodes", "run", "--timeout", "15", "--", *hanging(tmp_path / "p"))
    assert (code, alive(written_pids(tmp_path / "p", 4))) == (1, [])
    assert err.count("was not done within 15 s") == 2
    assert_nothing_left()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_the_end_of_this_process_ends_it_everywhere(
    commands: Commands, two_nodes: Cluster, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    process = commands.start("nodes", "run", "--", *hanging(tmp_path / "p"))
    pids = written_pids(tmp_path / "p", 4)
    assert alive(pids) == pids
    os.killpg(process.pid, sent)
    got, _, err = finish(process)
    assert got == code, err
    if sent != signal.SIGKILL:
        assert alive(pids) == []  # it says so when it ends, not some time later
    wait_until(lambda: not alive(pids))
    assert_nothing_left()


def test_a_node_that_is_lost_in_the_middle(commands: Commands, two_nodes: Cluster, tmp_path: Path) -> None:
    doomed = two_nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, labels={"name": "doomed"})
    two_nodes.wait_for_nodes()
    notes, go_on = tmp_path / "p", tmp_path / "go-on"
    script = f"echo $$ >> {notes}; while [ ! -e {go_on} ]; do sleep 0.1; done; echo done"
    process = commands.start("nodes", "run", "--", "bash", "-c", script)
    pids = written_pids(notes, 3)
    two_nodes.remove_node(doomed, allow_graceful=False)
    wait_until(lambda: len(alive(pids)) == 2)
    go_on.touch()
    code, out, err = finish(process)
    assert (code, out.count("done")) == (1, 2)
    assert f"error: {alive_nodes()[0].ip} ({doomed.node_id[:8]}): node" in err
    assert "the node was lost" in err
    assert alive(pids) == []
    assert_nothing_left()
