import socket

import pytest

from raydsinfer.doctor.findings.network import HubFound
from raydsinfer.doctor.probes.hub import find_hub
from raydsinfer.doctor.probing import Probing


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with Probing() as probing:  # the hub's library reads the environment once
        found = probing.start(find_hub, 5.0, timeout_s=60).result()
    assert isinstance(found, HubFound)
    assert (found.endpoint, found.user, bool(found.problem)) == (endpoint, "", True)
