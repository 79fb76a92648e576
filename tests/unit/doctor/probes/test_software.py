import platform
from importlib.metadata import version

from raydsinfer.doctor.probes.software import find_python


def test_this_environment() -> None:
    found = find_python()
    assert (found.version, found.wanted) == (platform.python_version(), "<3.14,>=3.10")
    packages = {package.name: package for package in found.packages}
    assert (packages["torch"].version, packages["torch"].wanted) == (version("torch"), ">=2.11")
    assert packages["ray"].wanted == ">=2.53"  # past its extras
    assert packages["numpy"].wanted == ""  # a requirement of requirements
