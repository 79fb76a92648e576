"""Imports go down only, and each big dependency has its rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import raydsinfer

PACKAGE = Path(raydsinfer.__file__).parent

# From the bottom up. A module may import from its own layer and from those before it. "*" stands for
# the predictor and its parts (rows, serving, scoring): everything that is not named elsewhere.
LAYERS = (
    ("errors", "config"),
    ("checkpoints",),
    ("engines",),
    ("groups",),
    ("rows",),
    ("serving",),
    ("*",),
    ("scoring",),
    ("batch_predictor",),
    ("demo", "bench", "doctor", "planning"),
    ("cli",),
)
LAYER_OF = {name: height for height, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Dotted names that a module imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write imports with the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str | None:
    """The module of this package that a dotted name lies in: the longest prefix that is a file."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MODULES), None)


def layer(module: str) -> int:
    return LAYER_OF.get(module.split(".")[1], LAYER_OF["*"])


def big_imports(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


INNER = [name for name in MODULES if name != "raydsinfer"]


def test_the_package_was_found() -> None:
    assert {"raydsinfer.errors", "raydsinfer.config", "raydsinfer.engines.base"} <= set(INNER)


@pytest.mark.parametrize("module", INNER)
def test_imports_go_down_only(module: str) -> None:
    for name in imports(module):
        target = own_module(name)
        if target is None or name == "raydsinfer.__version__":
            continue
        assert target != "raydsinfer", f"{module} imports {name}: name the module that holds it"
        assert layer(target) <= layer(module), f"{module} imports {target}, which is a layer above"


def test_no_two_modules_need_each_other() -> None:
    graph = {
        module: {target for name in imports(module) if (target := own_module(name)) not in (None, module, "raydsinfer")}
        for module in INNER
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(INNER)


@pytest.mark.parametrize("module", INNER)
def test_only_deepspeed_modules_import_deepspeed(module: str) -> None:
    allowed = module.startswith("raydsinfer.engines.deepspeed_")
    assert allowed or "deepspeed" not in big_imports(module)


@pytest.mark.parametrize("module", [name for name in INNER if name.split(".")[1] in ("engines", "checkpoints")])
def test_engines_and_checkpoints_know_nothing_of_ray(module: str) -> None:
    assert "ray" not in big_imports(module)


@pytest.mark.parametrize("module", [name for name in INNER if LAYER_OF["rows"] <= layer(name) < LAYER_OF["demo"]])
def test_predictors_know_neither_torch_nor_deepspeed(module: str) -> None:
    assert not {"torch", "deepspeed"} & big_imports(module)
