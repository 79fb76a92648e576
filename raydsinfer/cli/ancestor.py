"""The flags of the script that this library grew from, put into today's words."""

from __future__ import annotations

from collections.abc import Sequence

# Its switches could be written with a value, and some have a new name.
_SWITCHES = {
    "ds-inference": "ds-inference",
    "use-kernel": "kernel-inject",
    "use-meta-tensor": "use-meta-tensor",
    "use-cache": "use-cache",
}
_DOWNLOAD = ["run_on_every_node", "download_model"]  # a script of its own there
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
_MODEL = ("name", "checkpoint-path")


def modern_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrite old flags; everything else stays as it is.

    Underscores in flag names become dashes. ``--name`` (the hub name) or ``--checkpoint_path`` (its
    directory, which wins) becomes the first argument of ``generate``, MODEL. ``run_on_every_node
    download_model`` becomes ``fetch``. Switches with a value,
    ``--use_kernel=true`` or ``--use_kernel true``, become ``--kernel-inject`` or ``--no-kernel-inject``.

    Args:
        arguments: The command line without the program's name.
    """
    if "--" in arguments:
        end = list(arguments).index("--")
        return modern_arguments(arguments[:end]) + list(arguments[end:])
    if list(arguments[:2]) == _DOWNLOAD:
        arguments = ["fetch", *arguments[2:]]
    rest, model = [], {}
    words = iter(_joined([_with_dashes(word) for word in arguments]))
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            rest.append(word)
        elif name in _MODEL:
            model[name] = value if has_value else next(words, "")
        elif name in _SWITCHES and has_value and value.lower() in _TRUE + _FALSE:
            rest.append(f"--{'no-' if value.lower() in _FALSE else ''}{_SWITCHES[name]}")
        elif name == "use-kernel":
            rest.append("--kernel-inject")
        elif name == "no-use-kernel":
            rest.append("--no-kernel-inject")
        else:
            rest.append(word)
    if model and rest:
        rest.insert(1, model.get("checkpoint-path") or model["name"])
    return rest


def _joined(words: list[str]) -> list[str]:
    """``--use-kernel true`` as ``--use-kernel=true``."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].removeprefix("--") in _SWITCHES and word.lower() in _TRUE + _FALSE:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
