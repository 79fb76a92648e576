"""Words of the `nodes` commands that need no cluster."""

from __future__ import annotations

import io
import json

import pytest
import ray
from rich.console import Console
from typer.testing import CliRunner

from raydsinfer.cli.ancestor import modern_arguments
from raydsinfer.cli.main import app
from raydsinfer.cli.nodes import node_json, nodes_table, parsed_labels, print_table
from raydsinfer.errors import InvalidSettingError
from raydsinfer.groups.nodes import Node


def test_labels() -> None:
    assert parsed_labels([]) == {}
    assert parsed_labels(["disk=nvme", "ray.io/zone=a=b", "empty="]) == {
        "disk": "nvme",
        "ray.io/zone": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize("word", ["disk", "=nvme", ""])
def test_no_label(word: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"--label=.*key=value"):
        parsed_labels(["a=b", word])


def test_a_row_is_a_line_where_no_person_looks() -> None:
    node = Node(
        node_id="4" * 56,
        ip="10.0.0.1",
        resources={"CPU": 64.0, "GPU": 8.0, "memory": 1e12},
        labels={"ray.io/node-id": "4" * 56, "disk": "nvme[1]", "ray.io/accelerator-type": "H100"},
    )
    console = Console(file=io.StringIO(), width=40)
    print_table(nodes_table([node, node]), console)
    assert isinstance(console.file, io.StringIO)
    head, *rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert head == ["id", "ip", "CPUs", "GPUs", "labels"]
    assert rows == [["4" * 56, "10.0.0.1", "64", "8", "disk=nvme[1],", "ray.io/accelerator-type=H100"]] * 2
    assert json.loads(json.dumps(node_json(node)))["num_gpus"] == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nodes run", "Missing argument"),
        ("nodes run --timeout -1 -- true", "greater than or equal to 0"),
        ("nodes run --label disk -- true", "--label='disk'"),
        ("nodes list --label disk", "--label='disk'"),
        ("nodes run ls -l", "-l"),
        ("fetch", "Missing argument"),
        ("fetch a/b relative/path", "PATH='relative/path'"),
        ("fetch a/b --hf_home cache", "--hf-home='cache'"),
        ("fetch a/b --label disk", "--label='disk'"),
        ("run_on_every_node download_model a/b x/y", "PATH='x/y'"),
    ],
)
def test_wrong_usage(words: str, says: str) -> None:
    result = CliRunner().invoke(app, modern_arguments(words.split()), catch_exceptions=False)
    assert not ray.is_initialized()
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.replace("│", " ").split())
