"""Fills tables of the documentation from the code, so that they cannot grow stale.

In a page, ``<!-- settings: EngineConfig -->`` becomes a table of that class's settings,
``<!-- flags: generate -->`` a table of that command's flags, and ``<!-- families -->`` one of model families.
"""

from __future__ import annotations

import inspect
import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    markdown = re.sub(r"<!-- settings: (\w+) -->", lambda found: settings_table(found[1]), markdown)
    markdown = re.sub(r"<!-- flags: ([\w ]+) -->", lambda found: flags_table(found[1]), markdown)
    return re.sub(r"<!-- families -->", lambda _: families_table(), markdown)


def settings_table(class_name: str) -> str:
    """A row a setting: name, type with its range, default, words of the docstring."""
    from raydsinfer import config

    cls = getattr(config, class_name)
    words = _argument_words(inspect.getdoc(cls) or "")
    rows = []
    for name, field in cls.model_fields.items():
        kind = ", ".join([_type(field.annotation), *_bounds(field.metadata)])
        default = f"`{field.get_default(call_default_factory=True)!r}`"
        rows.append((f"`{name}`", kind, default, words[name]))
    return _table(("Setting", "Type", "Default", "Meaning"), rows)


def flags_table(command: str) -> str:
    """A row a flag, as the command's own help says it; a command within another has two words."""
    import click
    import typer

    from raydsinfer.cli.main import app

    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.get_command(click.Context(found), word)
    rows = []
    for parameter in found.params:
        if getattr(parameter, "hidden", False):
            continue
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        rows.append((names, _plain(getattr(parameter, "help", "") or "")))
    return _table(("Argument or flag", "Meaning"), rows)


def families_table() -> str:
    """A row a family: which ways it can be run in, on how many ranks, in which dtypes."""
    from raydsinfer.engines.families import FAMILIES

    head = (
        "Family",
        "Kernel injection",
        "AutoTP",
        "Continuous batching",
        "Without memory first",
        "Ranks with kernels",
        "Ranks with AutoTP",
        "Uneven ranks",
        "dtype",
    )
    rows, floats = [], "float16, bfloat16, float32"
    for name, family in FAMILIES.items():
        sliced = not family.autotp_problem
        limits = (inspect.getdoc(family.kernels) or "").partition(":")[2].strip().rstrip(".") if family.kernels else ""
        dtypes = floats
        if sliced:  # int8 needs linear layers, as AutoTP does
            dtypes += ", int8 (not with kernels)" if family.kernels else ", int8"
        rows.append(
            (
                f"`{name}`",
                ("tested" + (f"; {limits}" if limits else "")) if family.kernels else "no",
                "tested" if sliced else "on one rank",
                "tested" if sliced else "tested, on one rank",
                "yes",
                "those that divide the heads" if family.kernels else "",
                "up to its key-value heads" if sliced else "1",
                "AutoTP" if sliced else "no",
                dtypes,
            )
        )
    rows.append(("others", "no", "may run, unchecked", "tried out at the start", "yes", "", "", "AutoTP", floats))
    return _table(head, rows)


def _argument_words(doc: str) -> dict[str, str]:
    section = re.split(r"\n\w+:\n", doc.partition("Args:\n")[2])[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("``", "`") for name, text in found}


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value!r}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type(kind) for kind in get_args(annotation))
    if annotation is NoneType:
        return "`None`"
    return f"`{getattr(annotation, '__name__', annotation) if get_origin(annotation) is None else annotation}`"


def _bounds(metadata: list[Any]) -> list[str]:
    limits = [(sign, getattr(item, name, None)) for item in metadata for name, sign in _BOUNDS.items()]
    return [f"{sign} {'2⁶³' if limit == 2**63 else limit}" for sign, limit in limits if limit is not None]


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?<!\\)\[/?\w+\]", "", text).replace("\\[", "["))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
