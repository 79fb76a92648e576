"""What to fetch, how progress is told, and where a token goes."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raydsinfer.checkpoints.sources.fetch import Fetched
from raydsinfer.cli import fetch as module
from raydsinfer.cli.failures import ExitCode
from raydsinfer.cli.fetch import Secret, make_fetch
from raydsinfer.cli.fetch_progress import Arrived, open_fetch_display
from raydsinfer.cli.fetch_report import FetchReport
from raydsinfer.cli.nodes import print_failures, print_table
from raydsinfer.errors import CheckpointNotFoundError, InvalidSettingError, NodeDiedError
from raydsinfer.nodes import NodeResult

NAMES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}


def brought(node_id: str, *, num_fetched: int = 2_000_000_000, seconds: float = 4.0) -> NodeResult[Fetched]:
    value = Fetched(
        directory=Path("/cache/x[1]"),
        num_bytes=2_000_000_000,
        seconds=seconds,
        already_there=not num_fetched,
        num_fetched_bytes=num_fetched,
    )
    return NodeResult(node_id=node_id, node_ip=NAMES[node_id], seconds=seconds + 1, value=value)


def broken(node_id: str, error: BaseException) -> NodeResult[Fetched]:
    return NodeResult(node_id=node_id, node_ip=NAMES[node_id], seconds=1.25, error=error)


LOST = NodeDiedError(node="10.0.0.3", node_id="c", reason="the node was lost")


def test_a_directory_here_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "opt").mkdir()
    monkeypatch.chdir(tmp_path)
    assert make_fetch("opt", None).model == str(tmp_path / "opt")
    assert make_fetch("facebook/opt-66b", "/models/opt").model == "facebook/opt-66b"
    assert make_fetch("s3://bucket/opt", "~/opt").target == "~/opt"


@pytest.mark.parametrize(("path", "hf_home", "name"), [("models/opt", None, "PATH"), (None, "cache", "--hf-home")])
def test_paths_that_mean_something_else_on_each_node(path: str | None, hf_home: str | None, name: str) -> None:
    with pytest.raises(InvalidSettingError, match=f"{name}=.*absolute path"):
        make_fetch("a/b", path, hf_home=hf_home)


def test_a_secret_is_not_shown() -> None:
    secret = pickle.loads(pickle.dumps(Secret("hf_abc")))  # noqa: S301
    assert secret.reveal() == "hf_abc"
    assert "hf_abc" not in f"{secret} {secret!r} {[secret]}"


@pytest.mark.parametrize(
    ("own", "given", "used"), [(None, "driver", "driver"), ("node", "driver", "node"), ("node", None, "node")]
)
def test_a_node_uses_its_own_token_first(
    monkeypatch: pytest.MonkeyPatch, own: str | None, given: str | None, used: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if own is not None:
        monkeypatch.setenv("HF_TOKEN", own)
    with pytest.raises(RuntimeError, match="on the way"), module._token(Secret(given) if given else None):
        raise RuntimeError(f"on the way {os.environ['HF_TOKEN'] == used or 'with another token'}")
    assert os.environ.get("HF_TOKEN") == own


def test_progress_is_told_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Arrived] = []
    clock = iter([10.0, 10.1, 10.2, 12.0, 12.1])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    teller: Any = told.append
    progress = module._Progress("a", teller)
    for num_bytes in (100, 150, 200, 500, 900):  # an earlier attempt had brought the first 100
        progress(num_bytes, 900)
    assert [(arrived.num_bytes, round(arrived.bytes_per_s)) for arrived in told] == [(100, 0), (500, 200), (900, 381)]
    assert str(Arrived("a", 1_500_000, 2_000_000_000, 3.25e8)) == "1.5 MB of 2.0 GB, 325.0 MB/s"
    assert str(Arrived("a", 1_500_000, 0, 0.0)) == "1.5 MB"


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    with open_fetch_display(console, NAMES) as display:
        display.show(Arrived("a", 1_000_000, 2_000_000, 5e6))
        display.show(Arrived("a", 1_100_000, 2_000_000, 5e6))
        display.show(Arrived("unknown", 1, 2, 0.0))
        display.done(broken("b", CheckpointNotFoundError(path="a/b", reason="gone", hint="Look again.")))
        display.done(brought("a"))
        display.show(Arrived("a", 1_900_000, 2_000_000, 5e6))
        display.done(brought("c", num_fetched=0))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_plain_lines() -> None:
    assert shown(terminal=False).splitlines() == [
        "10.0.0.1: 1.0 MB of 2.0 MB, 5.0 MB/s",
        "unknown: 1 bytes of 2 bytes",
        "10.0.0.2: failed: a/b: gone. Look again.",
        "10.0.0.1: fetched 2.0 GB in 4.0 s to /cache/x[1]",
        "10.0.0.3: already there, 2.0 GB in /cache/x[1]",
    ]


def test_a_line_a_node_on_a_terminal() -> None:
    last = shown(terminal=True).splitlines()[-4:-1]
    assert [name in line for name, line in zip(NAMES.values(), last, strict=True)] == [True] * 3
    assert ["100%" in line for line in last] == [True, False, True]
    assert "fetched 2.0 GB in 4.0 s to /cache/x[1]" in last[0]
    assert "failed: a/b: gone" in last[1]


def report(*results: NodeResult[Fetched]) -> FetchReport:
    return FetchReport(names=NAMES, results={result.node_id: result for result in results})


def test_the_table_and_the_reasons() -> None:
    console = Console(file=io.StringIO(), width=60)
    result = report(brought("a"), brought("b", num_fetched=0, seconds=0.5), broken("c", LOST))
    print_table(result.table(), console)
    print_failures(result.names, result.results, console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[0] == ["node", "bytes", "seconds", "MB/s", "already", "there", "directory"]
    assert lines[1] == ["10.0.0.1", "2,000,000,000", "4.0", "500.0", "no", "/cache/x[1]"]
    assert lines[2] == ["10.0.0.2", "2,000,000,000", "0.5", "yes", "/cache/x[1]"]
    assert lines[3] == ["10.0.0.3", "1.2", "failed"]
    assert " ".join(lines[4]).startswith("error: 10.0.0.3: node 10.0.0.3 (id c): the node was lost.")
    assert " ".join(lines[5]) == "1 of 3 nodes failed"


def test_what_machines_get() -> None:
    good, bad = report(brought("a"), broken("c", LOST)).json()
    assert (good["ok"], good["bytes"], good["mb_per_s"], good["error"]) == (True, 2_000_000_000, 500.0, None)
    assert (good["directory"], good["already_there"]) == ("/cache/x[1]", False)
    assert (bad["ok"], bad["bytes"], bad["seconds"]) == (False, None, 1.25)
    assert bad["error"] == {"type": "NodeDiedError", "message": str(LOST)}


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], ExitCode.OK),
        ([LOST], ExitCode.FAILURE),
        ([CheckpointNotFoundError(path="x", reason="none")], ExitCode.USAGE),
        ([LOST, CheckpointNotFoundError(path="x", reason="none")], ExitCode.USAGE),
        ([OSError("disk")], ExitCode.FAILURE),
    ],
)
def test_exit_codes(errors: list[BaseException], code: ExitCode) -> None:
    failed = [broken(node_id, error) for node_id, error in zip("bc", errors, strict=False)]
    assert report(brought("a"), *failed).exit_code == code
