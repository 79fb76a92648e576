"""What the command prints; that it looks at this machine is seen in tests/cluster."""

import io

from rich.console import Console

from raydsinfer.cli.doctor import verdicts_table
from raydsinfer.doctor.verdicts import Verdict


def test_the_cure_stands_below_what_was_found() -> None:
    verdicts = [
        Verdict(subject="torch", level="green", found="2.13.0, [/weird] build"),
        Verdict(subject="NCCL", level="red", found="a sum fails", cure="pip install 'ray[data]'"),
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(verdicts_table(verdicts))
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["green", "torch", "2.13.0,", "[/weird]", "build"],
        ["red", "NCCL", "a", "sum", "fails"],
        ["→", "pip", "install", "'ray[data]'"],
    ]
