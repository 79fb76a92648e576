"""What of another job's command line may be shown: the program and its script, not what they were given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from raydsinfer.checkpoints.sources.secrets import without_secrets

_SHELL = "(interactive_shell)"  # what Ray puts before the command line of a notebook
_ASSIGNMENT = re.compile(r"\w+=")
_PYTHON = re.compile(r"(.*/)?(python|pypy)[\d.]*")
_FLAGS = re.compile(r"-[bBdEiIOPqRsSuvx]+|-[XW].+")  # of Python, without a value or with one in the same word
_SCRIPT = re.compile(r"[^=]+\.(py|sh)")


def without_arguments(command: str) -> str:
    """``python t.py …`` of ``TOKEN=x python -u t.py --token y``: arguments may be secrets, and nobody can tell which.

    Args:
        command: A command line, as a shell takes it or as words with blanks between them.

    Returns:
        Program and script, or Python's module; what is left out after them is ``…``.
    """
    words = _words(command)
    given = [word for word in words if word != _SHELL]
    while given and (_ASSIGNMENT.match(given[0]) or given[0] == "env"):
        del given[0]
    shown = given[:1]
    if shown:
        shown += _of_python(given[1:]) if _PYTHON.fullmatch(shown[0]) else _of_other(given[1:])
    text = " ".join(without_secrets(word) for word in shown)
    return text if len(shown) == len(words) else f"{text} …".lstrip()


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote among words that were joined
        words = command.split()
    # A value with blanks would be several words now, and the rest of it no assignment.
    return [f"{words[0]}="] if _ASSIGNMENT.match(words[0]) else words


def _of_python(words: Sequence[str]) -> list[str]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "-m":
            return ["-m", *rest[:1]]
        if word in ("-X", "-W"):
            del rest[:1]
        elif not word.startswith("-"):
            return [word]
        elif not _FLAGS.fullmatch(word):
            return []  # code, or stdin
    return []


def _of_other(words: Sequence[str]) -> list[str]:
    return [word for word in words[:1] if _SCRIPT.fullmatch(word)]
