"""Python and packages, by their metadata: nothing is imported."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from raydsinfer.doctor.findings.software import PackageFound, PythonFound
from raydsinfer.doctor.tested import TESTED

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)")


def find_python() -> PythonFound:
    """The interpreter and the packages that matter."""
    wanted = _wanted()
    return PythonFound(
        version=platform.python_version(),
        wanted=_python_wanted(),
        packages=tuple(
            PackageFound(name=name, version=_version(name), wanted=wanted.get(name, ""), tested=tested)
            for name, tested in TESTED.items()
        ),
    )


def _wanted() -> dict[str, str]:
    """Bounds of this library's own requirements; none where it was not installed."""
    try:
        lines = requires("raydsinfer") or []
    except PackageNotFoundError:
        return {}
    found = [_REQUIREMENT.match(line) for line in lines if "extra ==" not in line]
    return {match[1].lower(): match[2].strip() for match in found if match}


def _python_wanted() -> str:
    try:
        return str(metadata("raydsinfer")["Requires-Python"] or "")
    except PackageNotFoundError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
