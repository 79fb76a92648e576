"""`raydsinfer fetch` on two nodes that have a cache each, from a web server, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from raydsinfer.groups.nodes import Node, alive_nodes
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left, several_nodes
from tests.commands import Commands, finish, wait_until
from tests.web import WebModel, serving

ASKED = ("--label", "pool=fetch")
WEIGHTS = os.urandom(300_000)
TOKEN = "hf_" + "s3cret" * 5
SIZE = len(WEIGHTS) + 2


def add_node(cluster: Cluster, directory: Path, **more: Any) -> Any:
    """A node with a hub cache, and a hub, of its own."""
    own = {"HF_HOME": str(directory), "HF_HUB_DISABLE_XET": "1", **more.pop("env", {})}
    return cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, env_vars=own, **more)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """A head that is not asked, and two nodes with labels. Their caches are in the directory."""
    homes = tmp_path_factory.mktemp("homes")
    with several_nodes(0) as cluster:
        for name in ("a", "b"):
            add_node(cluster, homes / name, labels={"pool": "fetch", "name": name})
        cluster.wait_for_nodes()
        yield cluster, homes
        assert_nothing_left()


@pytest.fixture
def web() -> Iterator[tuple[WebModel, str]]:
    model = WebModel({"opt/config.json": b"{}", "opt/pytorch_model.bin": WEIGHTS})
    with serving(model) as url:
        yield model, f"{url}/opt"


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


def named(name: str) -> Node:
    return next(node for node in alive_nodes() if node.labels.get("name") == name)


@ray.remote(num_cpus=1)
class Busy:
    def ready(self) -> bool:
        return True


def test_once_on_each_node_though_all_cpus_are_taken(
    commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str]
) -> None:
    model, url = web
    hogs: list[Any] = [Busy.remote() for _ in range(4)]  # type: ignore[attr-defined]
    try:
        ray.get([hog.ready.remote() for hog in hogs], timeout=60)
        code, out, err = commands.run("fetch", *ASKED, url)
    finally:
        for hog in hogs:
            ray.kill(hog)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert [row[2:3] + row[5:6] for row in rows[1:]] == [[f"{SIZE:,}", "no"]] * 2
    directories = [Path(row[-1]) for row in rows[1:]]
    assert {directory.parts[: len(two_nodes[1].parts) + 1][-1] for directory in directories} == {"a", "b"}
    assert [(directory / "pytorch_model.bin").read_bytes() for directory in directories] == [WEIGHTS] * 2
    assert model.num_bytes_sent >= 2 * SIZE
    assert err.count("fetched 300.0 kB in") == 2

    sent = model.num_bytes_sent
    code, out, err = commands.run("fetch", *ASKED, url, "--json")
    answers = json.loads(out)
    assert (code, model.num_bytes_sent) == (0, sent)
    assert [(answer["ok"], answer["already_there"], answer["bytes"]) for answer in answers] == [(True, True, SIZE)] * 2
    assert {answer["node_id"] for answer in answers} == {named("a").node_id, named("b").node_id}
    assert_nothing_left()


def test_one_path_that_nodes_share(
    commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str], tmp_path: Path
) -> None:
    code, out, _ = commands.run("fetch", *ASKED, web[1], str(tmp_path / "model"), "--json")
    answers = json.loads(out)
    assert (code, sorted(answer["already_there"] for answer in answers)) == (0, [False, True])
    assert (tmp_path / "model" / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert_nothing_left()


def test_a_node_that_fails_is_named_and_the_other_finishes(
    commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str], tmp_path: Path
) -> None:
    cluster = two_nodes[0]
    (tmp_path / "no-directory").write_text("x")
    broken = add_node(cluster, tmp_path / "no-directory", labels={"pool": "fetch", "name": "broken"})
    cluster.wait_for_nodes()
    try:
        code, out, err = commands.run("fetch", *ASKED, web[1], "--json")
    finally:
        cluster.remove_node(broken)
    answers = {answer["node_id"]: answer for answer in json.loads(out)}
    assert code == 1
    failed = answers.pop(broken.node_id)
    assert (failed["ok"], failed["bytes"]) == (False, None)
    assert [answer["bytes"] for answer in answers.values()] == [SIZE] * 2
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert f"({broken.node_id[:8]})" in said[0]
    assert "no-directory" in said[0]
    assert err.endswith("1 of 3 nodes failed\n")
    assert_nothing_left()


def test_a_node_that_is_lost_in_the_middle(
    commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str], tmp_path: Path
) -> None:
    cluster, model = two_nodes[0], web[0]
    doomed = add_node(cluster, tmp_path / "doomed", labels={"pool": "fetch"})
    cluster.wait_for_nodes()
    model.waits_after = 0
    process = commands.start("fetch", *ASKED, web[1])
    wait_until(lambda: model.asked_for("opt/config.json") >= 3)
    cluster.remove_node(doomed)
    wait_until(lambda: doomed.node_id not in [node.node_id for node in alive_nodes()])
    model.go_on.set()
    code, out, err = finish(process)
    assert code == 1
    assert sum(f"{SIZE:,}" in line for line in out.splitlines()) == 2
    assert f"({doomed.node_id[:8]}): failed: node" in err
    assert "the node was lost" in err
    assert_nothing_left()


def test_no_such_model(commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str]) -> None:
    code, out, err = commands.run("fetch", *ASKED, f"{web[1]}/none")
    assert code == 2
    assert out.count("failed") == 2
    assert "2 of 2 nodes failed" in err
    assert_nothing_left()


def test_an_interrupt_ends_it_on_the_nodes(
    commands: Commands, two_nodes: tuple[Cluster, Path], web: tuple[WebModel, str]
) -> None:
    model, url = web
    model.waits_after = 100_000
    process = commands.start("fetch", *ASKED, url, "--refresh", "--hf-home", str(two_nodes[1] / "slow"))
    wait_until(lambda: model.num_bytes_sent >= 100_000)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted; no process was left behind")
    model.go_on.set()
    model.waits_after = None
    code, out, _ = commands.run("fetch", *ASKED, url, "--json", "--hf-home", str(two_nodes[1] / "slow"))
    assert (code, [answer["bytes"] for answer in json.loads(out)]) == (0, [SIZE] * 2)
    assert_nothing_left()


class _Hub(BaseHTTPRequestHandler):
    seen: list[str | None]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):  # the library asks for other things, too, as nobody
            self.seen.append(self.headers.get("Authorization"))
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_token_of_this_command_reaches_the_hub_and_no_file_of_ray(
    commands: Commands, two_nodes: tuple[Cluster, Path], tmp_path: Path
) -> None:
    class Hub(_Hub):
        seen: list[str | None] = []  # noqa: RUF012

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # The whole test run may be told to stay off line.
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        cluster = two_nodes[0]
        own = {**hub, "HF_TOKEN": "hf_of_the_node"}
        given, has = (
            add_node(cluster, tmp_path / name, labels={"pool": "fetch", "hub": "yes"}, env=env)
            for name, env in (("given", hub), ("has", own))
        )
        cluster.wait_for_nodes()
        try:
            code, _, err = commands.run(
                "fetch", *ASKED, "some/model", "--label", "hub=yes", "--debug", env={"HF_TOKEN": TOKEN}
            )
        finally:
            cluster.remove_node(given)
            cluster.remove_node(has)
            server.shutdown()
    assert code == 2, err
    assert set(Hub.seen) == {f"Bearer {TOKEN}", "Bearer hf_of_the_node"}
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    files = [path for path in session.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path.name for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in err
    assert_nothing_left()
