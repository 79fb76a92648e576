"""`raydsinfer fetch`: a model on every node, once each, side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.console import Console

from raydsinfer.checkpoints.sources.fetch import Fetched
from raydsinfer.checkpoints.sources.fetch import fetch as fetch_here
from raydsinfer.cli.board import Board, Teller
from raydsinfer.cli.cluster import this_node
from raydsinfer.cli.fetch_progress import Arrived, open_fetch_display
from raydsinfer.cli.fetch_report import FetchReport
from raydsinfer.cli.nodes import Selection
from raydsinfer.errors import InvalidSettingError
from raydsinfer.nodes import NodeResult, run_on_every_node

_TELL_EVERY_S = 0.5  # a person does not see more
_STOP_S = 2.0  # threads that wait for a server do not hear an interrupt; what has arrived is kept either way
_TOKEN = "HF_TOKEN"  # noqa: S105 (the name of a variable)


class Secret:
    """A text that no log, traceback or display shows."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """What to fetch; the arguments are those of `raydsinfer.checkpoints.sources.fetch.fetch`."""

    model: str
    revision: str | None = None
    hf_home: str | None = None
    target: str | None = None
    refresh: bool = False


def make_fetch(
    model: str, path: str | None, *, revision: str | None = None, hf_home: str | None = None, refresh: bool = False
) -> Fetch:
    """Check the flags.

    Raises:
        InvalidSettingError: A path means something else on each node.
    """
    for name, value in (("PATH", path), ("--hf-home", hf_home)):
        if value is not None and not value.startswith(("/", "~")):
            raise InvalidSettingError(name=name, value=value, expected="an absolute path, the same on every node")
    if "://" not in model and Path(model).expanduser().is_dir():
        model = os.path.abspath(Path(model).expanduser())
    return Fetch(model=model, revision=revision, hf_home=hf_home, target=path, refresh=refresh)


def fetch_everywhere(wanted: Fetch, selection: Selection, *, console: Console, debug: bool) -> FetchReport:
    """Fetch a model on every node that is meant.

    Args:
        wanted: What to fetch.
        selection: Which nodes.
        console: For progress.
        debug: Whether to show logs.

    Raises:
        ConfigurationError: There are no such nodes.
    """
    # As an argument, pickled with the call: Ray writes the environment variables of a runtime_env to a log
    # (runtime_env_agent.log) and shows them in its dashboard and state API; arguments it neither shows nor logs.
    token = Secret(os.environ[_TOKEN]) if os.environ.get(_TOKEN) else None
    with selection.names(debug=debug) as names, open_fetch_display(console, names) as display:

        def done(result: NodeResult[Fetched]) -> None:
            board.refresh()
            display.done(result)

        with Board(lambda _, arrived: display.show(arrived), this_node()) as board:
            results = run_on_every_node(
                fetch_on_node,
                (wanted, token, board.teller),
                gpu_only=selection.gpu_only,
                labels=selection.labels,
                stop_s=_STOP_S,
                on_result=done,
            )
    return FetchReport(names=names, results=results)


def fetch_on_node(wanted: Fetch, token: Secret | None, teller: Teller) -> Fetched:
    """Fetch a model to this node. Runs on the nodes."""
    with _token(token):
        return fetch_here(
            wanted.model,
            revision=wanted.revision,
            hf_home=wanted.hf_home,
            target=Path(wanted.target).expanduser() if wanted.target else None,
            refresh=wanted.refresh,
            on_progress=_Progress(ray.get_runtime_context().get_node_id(), teller),
        )


@contextmanager
def _token(token: Secret | None) -> Iterator[None]:
    """Use a token where the node has none, and no longer than this."""
    if token is None or os.environ.get(_TOKEN):
        yield
        return
    os.environ[_TOKEN] = token.reveal()
    try:
        yield
    finally:
        del os.environ[_TOKEN]


class _Progress:
    """Tells the board of bytes, with their rate by this node's clock."""

    def __init__(self, node_id: str, teller: Teller) -> None:
        self._node_id, self._teller = node_id, teller
        self._first: tuple[float, int] | None = None
        self._told_at = float("-inf")

    def __call__(self, num_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now, num_bytes  # an earlier attempt may have brought some
        if now - self._told_at < _TELL_EVERY_S and num_bytes < total_bytes:
            return
        self._told_at = now
        seconds, already = now - self._first[0], self._first[1]
        rate = (num_bytes - already) / seconds if seconds > 0 else 0.0
        self._teller(Arrived(self._node_id, num_bytes, total_bytes, rate))
