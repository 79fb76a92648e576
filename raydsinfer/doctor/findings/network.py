"""Ray and the hub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """A Ray that runs here.

    Args:
        address: Of its GCS.
        version: Of Ray; empty if unknown.
        python: Of the interpreter, as ``3.11``; empty if unknown.
    """

    address: str
    version: str = ""
    python: str = ""


@dataclass(frozen=True, kw_only=True)
class RayFound:
    """Ray.

    Args:
        version: Of the package.
        python: Of this interpreter, as ``3.11``.
        clusters: What runs on this machine.
        address: RAY_ADDRESS; empty if it is not set.
        address_problem: Why nothing is reached there.
        port_taken: Whether something that is no Ray listens at the port of ``ray start --head``.
    """

    version: str
    python: str
    clusters: tuple[RayCluster, ...] = ()
    address: str = ""
    address_problem: str = ""
    port_taken: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalRayFound:
    """A Ray that was started for the doctor.

    Args:
        seconds: From its start to the answer of a first task.
    """

    seconds: float


@dataclass(frozen=True, kw_only=True)
class HubFound:
    """The Hugging Face hub.

    Args:
        endpoint: Where it is looked for.
        user: Whose token this is; empty for none.
        problem: Why it does not answer.
    """

    endpoint: str
    user: str = ""
    problem: str = ""
