import platform
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
import ray

from raydsinfer.doctor.findings.network import RayCluster
from raydsinfer.doctor.probes.ray import find_ray, running_clusters

RAYLET = "core/src/ray/raylet/raylet"


def test_clusters_by_their_raylets(tmp_path: Path) -> None:
    other = tmp_path / "lib/python3.10/site-packages/ray"
    other.mkdir(parents=True)
    (other / "_version.py").write_text('commit = "x"\nversion = "2.53.0"\n')
    ours = Path(ray.__file__).parent
    words = [
        [str(ours / RAYLET), "--object_manager_port=0", "--gcs-address=10.0.0.1:6379", "-verbose"],
        [str(ours / RAYLET), "--gcs-address=10.0.0.1:6379"],  # another node of it on this machine
        [str(other / RAYLET), "--gcs-address=[fd00::1]:7000"],
        [str(tmp_path / RAYLET), "--gcs-address=10.0.0.3:1"],
        ["/bin/sh", "--gcs-address=10.0.0.2:1"],
        [],
    ]
    assert running_clusters(words) == (
        RayCluster(address="10.0.0.1:6379", version=ray.__version__, python=python_of(ours)),
        RayCluster(address="[fd00::1]:7000", version="2.53.0", python="3.10"),
        RayCluster(address="10.0.0.3:1"),
    )


def python_of(package: Path) -> str:
    return package.parent.parent.name.removeprefix("python")


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = find_ray()
    assert (found.version, found.address_problem) == (version("ray"), "")
    assert platform.python_version().startswith(found.python)


def test_an_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for told in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", told)
            assert (find_ray().address, find_ray().address_problem) == (told, "")
    assert find_ray().address_problem == "nothing answers there"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find_ray().address_problem == ""
