"""Python and its packages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PackageFound:
    """A package.

    Args:
        name: As pip knows it.
        version: Empty if it is not installed.
        wanted: What this library's metadata asks for, as ``>=2.11``; empty if unknown.
        tested: The version that the tests ran with.
    """

    name: str
    version: str
    wanted: str
    tested: str


@dataclass(frozen=True, kw_only=True)
class PythonFound:
    """The interpreter.

    Args:
        version: As ``3.11.7``.
        wanted: What this library's metadata asks for.
        packages: The libraries that matter.
    """

    version: str
    wanted: str
    packages: tuple[PackageFound, ...]
