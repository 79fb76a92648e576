"""The table of versions is that of constraints.txt."""

from pathlib import Path

from packaging.requirements import Requirement

from raydsinfer.doctor.tested import TESTED

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"


def test_versions_are_those_of_the_constraints() -> None:
    lines = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    newest = {line.name: str(line.specifier) for line in lines if line.marker is None or ">=" in str(line.marker)}
    assert {name: newest[name] for name in TESTED} == {name: f"=={version}" for name, version in TESTED.items()}
