import pytest

from raydsinfer.doctor.findings.software import PackageFound, PythonFound
from raydsinfer.doctor.judges.software import judge_python


def found(version: str, wanted: str = ">=2.11", python: str = "3.11.7") -> PythonFound:
    package = PackageFound(name="torch", version=version, wanted=wanted, tested="2.13.0")
    return PythonFound(version=python, wanted="<3.14,>=3.10", packages=(package,))


@pytest.mark.parametrize(
    ("version", "level", "says", "cure"),
    [
        ("2.13.0", "green", "torch 2.13.0", ""),
        ("2.13.4", "green", "torch 2.13.4", ""),
        ("2.11.0+cu130", "green", "torch 2.11.0+cu130", ""),
        ("2.12.0a0+gitabc", "green", "torch 2.12.0a0", ""),
        ("2.10.0", "red", ">=2.11 is needed", "pip install 'torch>=2.11'"),
        ("2.14.0", "yellow", "newer than what the tests ran with, 2.13.0", "torch==2.13.0"),
        ("nonsense", "yellow", "no version", ""),
        ("", "red", "not installed", "pip install 'torch>=2.11'"),
    ],
)
def test_packages(version: str, level: str, says: str, cure: str) -> None:
    verdict = judge_python(found(version))[-1]
    assert (verdict.level, says in verdict.found, cure in verdict.cure) == (level, True, True)


def test_without_this_librarys_metadata_the_tested_version_is_the_cure() -> None:
    assert "'torch==2.13.0'" in judge_python(found("", wanted=""))[-1].cure


@pytest.mark.parametrize(
    ("python", "level"), [("3.10.0", "green"), ("3.13.1", "green"), ("3.9.2", "red"), ("3.14.0", "red")]
)
def test_python(python: str, level: str) -> None:
    verdict = judge_python(found("2.13.0", python=python))[0]
    assert (verdict.level, bool(verdict.cure)) == (level, level == "red")
