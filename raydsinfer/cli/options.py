"""Flags made from settings classes: one for each field, with the words of its docstring."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from raydsinfer.config import Settings
from raydsinfer.errors import ConfigurationError


def with_flags(
    panels: Mapping[str, type[Settings]], hidden: frozenset[str] = frozenset()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command a flag for each field of some settings classes.

    The command gets, for each class, a dict under the panel's name: only what the user said, so
    that defaults stay with the classes.

    Args:
        panels: Argument of the command → settings class; a field of two classes belongs to the first.
        hidden: Fields whose flags are not in the help.
    """
    homes: dict[str, str] = {}
    for panel, settings in panels.items():
        for name in settings.model_fields:
            homes.setdefault(name, panel)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_settings(**values: Any) -> Any:
            said: dict[str, dict[str, Any]] = {panel: {} for panel in panels}
            for name, panel in homes.items():
                value = values.pop(name)
                if value is not None and value != []:
                    said[panel][name] = _parsed(name, panels[panel].model_fields[name].annotation, value)
            return command(**values, **said)

        own = inspect.signature(command, eval_str=True).parameters.values()
        flags = [_flag(name, panel, panels[panel], hidden=name in hidden) for name, panel in homes.items()]
        signature = inspect.Signature([p for p in own if p.name not in panels] + flags)
        with_settings.__signature__ = signature  # type: ignore[attr-defined]
        with_settings.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        del with_settings.__wrapped__
        return with_settings

    return decorate


def _flag(name: str, panel: str, settings: type[Settings], *, hidden: bool) -> inspect.Parameter:
    field = settings.model_fields[name]
    words = argument_words(settings).get(name, "")
    # A default from the environment is not looked up to print a help: it may be wrong, which is for the run to say.
    default = None if field.default_factory else field.default
    shown = "" if default is None else f" [dim]\\[default: {str(default).lower()}][/dim]"
    option = typer.Option(
        help=words + shown, rich_help_panel=f"{panel.capitalize()} settings", hidden=hidden, show_default=False
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_flag_type(field.annotation), option],
    )


def _flag_type(annotation: Any) -> Any:
    """The type that typer should parse; texts are checked by the settings class, which says more."""
    kinds = _alternatives(annotation)
    if any(get_origin(kind) is list for kind in kinds):
        return list[str] | None
    for plain in (bool, int, float):
        if plain in kinds:
            return plain | None
    return str | None


def _parsed(name: str, annotation: Any, value: Any) -> Any:
    """A structure is given as JSON text."""
    kinds = [kind for kind in _alternatives(annotation) if inspect.isclass(kind) and issubclass(kind, Settings)]
    if not kinds:
        return value
    try:
        return kinds[0](**json.loads(value))
    except (ValueError, TypeError, RecursionError, ConfigurationError) as error:
        raise typer.BadParameter(f"--{name.replace('_', '-')} takes a JSON object: {error}") from error


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [kind for kind in get_args(annotation) if kind is not NoneType]
    return [annotation]


def argument_words(settings: type) -> dict[str, str]:
    """Argument name → its description, from the ``Args:`` section of a class's docstring."""
    text = inspect.getdoc(settings) or ""
    section = text.partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).replace("``", "") for name, words in found}
