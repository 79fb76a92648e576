"""Python and packages, beside what the tests ran with."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from raydsinfer.doctor.findings.software import PackageFound, PythonFound
from raydsinfer.doctor.verdicts import Verdict


def judge_python(found: PythonFound) -> list[Verdict]:
    """The interpreter, what is wrong with packages, and the others in one line."""
    well = found.version in SpecifierSet(found.wanted, prereleases=True)
    python = Verdict(
        subject="Python",
        level="green" if well else "red",
        found=found.version,
        cure="" if well else f"Make an environment with a Python {found.wanted}.",
    )
    packages = [_judge_package(package) for package in found.packages]
    fine = [verdict.found for verdict in packages if verdict.level == "green"]
    return [
        python,
        *([Verdict(subject="packages", level="green", found=", ".join(fine))] if fine else []),
        *(verdict for verdict in packages if verdict.level != "green"),
    ]


def _judge_package(package: PackageFound) -> Verdict:
    name, wanted = package.name, package.wanted
    install = f"pip install '{name}{wanted or '==' + package.tested}'"
    if not package.version:
        return Verdict(subject=name, level="red", found="not installed", cure=install)
    found = f"{name} {package.version}"
    try:
        version = Version(package.version)
    except InvalidVersion:
        why = f"{found}, which is no version that can be compared; tested: {package.tested}"
        return Verdict(subject=name, level="yellow", found=why)
    if version not in SpecifierSet(wanted, prereleases=True):
        return Verdict(subject=name, level="red", found=f"{found}, but {wanted} is needed", cure=install)
    if version.release[:2] > Version(package.tested).release[:2]:
        why = f"{found} is newer than what the tests ran with, {package.tested}"
        return Verdict(
            subject=name, level="yellow", found=why, cure=f"If it breaks: pip install {name}=={package.tested}"
        )
    return Verdict(subject=name, level="green", found=found)
