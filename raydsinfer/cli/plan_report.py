"""A plan for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydsinfer.checkpoints.sizes import memory_in_words
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.plan_engines import engines_table, reasons
from raydsinfer.planning.needs import Need
from raydsinfer.planning.next_step import next_commands
from raydsinfer.planning.nodes import NodeFacts
from raydsinfer.planning.placing import Placed
from raydsinfer.planning.plan import Plan
from raydsinfer.planning.verdicts import ENGINES

_WIDTH = 140  # characters, where no person looks
Line = tuple[str, str]


def print_plan(
    plan: Plan,
    console: Console,
    *,
    before: Sequence[Line] = (),
    address: str | None = None,
    commands: bool = True,
) -> None:
    """Print a plan.

    Args:
        plan: The plan.
        console: Where to.
        before: Lines of what else is planned, which go first.
        address: Of the Ray cluster, for the command to run next.
        commands: Whether to say what to run next.
    """
    out = console if console.is_terminal else Console(file=console.file, width=_WIDTH)
    out.print(grid([*before, *model_lines(plan)]))
    out.print()
    out.print(engines_table(plan.verdicts))
    for line in reasons(plan.verdicts):
        out.print(line, style="dim")
    out.print()
    out.print(
        grid(
            [*memory_lines(plan), *node_lines(plan), *placement_lines(plan), *holder_lines(plan), *closing_lines(plan)]
        )
    )
    following = next_commands(plan, address=address) if commands else []
    if following:
        out.print("\nnext", style="bold")
    for command in following:  # a line however long: it is to be copied
        out.print(command, markup=False, highlight=False, soft_wrap=True)


def grid(lines: Sequence[Line]) -> Table:
    """A row a line: a word, and what is to be said."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, text)
    return table


def model_lines(plan: Plan) -> Iterator[Line]:
    """The model, and what a gang would be."""
    model, stored = plan.model, plan.model.stored
    positions = f", {model.positions:,} positions" if model.positions else ""
    yield "model", escape(without_secrets(plan.wanted.model))
    yield (
        "",
        (
            f"{model.family}, {model.num_parameters:,} parameters, {len(model.layers)} layers, {model.num_kv_heads} "
            f"key-value heads{positions}"
        ),
    )
    if stored:
        checked = "headers read" if stored.checked else "by its listing"
        files = _count(stored.num_files, "file")
        cut = f", cut for {stored.tp_size} ranks" if stored.tp_size else ""
        yield "stored", f"{stored.form}, {files}, {memory_in_words(stored.num_bytes)}{cut} ({checked})"
    device = "GPU" if plan.wanted.use_gpu else "CPU"
    ranks = _count(plan.num_ranks, f"{device} rank")
    why = ""
    if plan.proposed and plan.wanted.use_gpu:
        rows = plan.memory.largest_batch
        why = " (the fewest that it fits on)" if rows else " (it fits on no number of them)"
        why = " (a guess: the memory of the GPU is not known)" if rows is None else why
    yield "gang", f"{ranks}{why}, {ENGINES[plan.engine][0]}, {plan.dtype}, max_tokens {plan.wanted.config.max_tokens}"


def memory_lines(plan: Plan) -> Iterator[Line]:
    """What the fullest rank holds, and how many rows at once."""
    memory, tokens = plan.memory, plan.wanted.config.max_tokens
    device = "GPU" if plan.wanted.use_gpu else "rank"
    yield (
        "memory",
        (
            f"of the {'fullest ' if plan.num_ranks > 1 else ''}{device}: "
            f"weights about {memory_in_words(memory.weights_bytes)} ({memory.num_parameters:,} parameters), "
            f"about {memory_in_words(memory.overhead_bytes)} for all else"
        ),
    )
    kept = f"keys and values take {memory_in_words(memory.kv_bytes_per_token)} a token"
    if memory.kv_bytes is None or memory.largest_batch is None:
        yield "", f"{kept}; how many fit is not known: nobody tells the memory of the GPU"
        return
    if plan.engine == "kernel_inject":
        left = f"the kernels reserve {memory_in_words(memory.kv_bytes)}, keys and values included"
    elif plan.engine == "continuous":
        left = (
            f"{kept}; {memory_in_words(memory.kv_bytes)} are left for them{_within(plan)}: {memory.kv_tokens:,} tokens"
        )
    else:
        left = f"{kept}; {memory_in_words(memory.kv_bytes)} for the largest batch{_within(plan)}"
    yield "", left if memory.largest_batch else f"{kept}; no room is left for them"
    setting = "max_running" if plan.engine == "continuous" else "max_batch_size"
    most = memory.largest_batch == memory.wanted_rows
    yield (
        "batch",
        (
            f"{memory.largest_batch} rows of {tokens:,} tokens at once"
            + (f", as {setting} says; raise it for more" if most else f"; {setting} is {memory.wanted_rows}")
        ),
    )


def _within(plan: Plan) -> str:
    if plan.memory.device_bytes is None:
        return ""
    share = f"{plan.wanted.config.gpu_memory_utilization:g} of " if plan.engine == "continuous" else ""
    return f", within {share}{memory_in_words(plan.memory.device_bytes)}"


def node_lines(plan: Plan) -> Iterator[Line]:
    """Each node: GPUs, and what is needed there."""
    needs = {need.node: need for need in plan.needs}
    for index, node in enumerate(plan.cluster.nodes):
        kinds = Counter(str(gpu) for gpu in node.gpus)
        gpus = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        words = [f"{gpus}; {node.num_free_gpus:g} of {node.num_gpus} free" if gpus else "no GPU"]
        if need := needs.get(node.name):
            words += _needed(need, node, plan)
        yield ("nodes" if not index else ""), escape(f"{node.name}: {'; '.join(words)}")


def _needed(need: Need, node: NodeFacts, plan: Plan) -> Iterator[str]:
    if need.num_ranks:
        there = f", {memory_in_words(node.available_bytes)} available" if node.available_bytes is not None else ""
        yield f"host memory for {_count(need.num_ranks, 'rank')} about {memory_in_words(need.host_bytes)}{there}"
    if need.disk_bytes:
        room = (
            f", {memory_in_words(node.disk_free_bytes)} free in {node.disk_path}"
            if node.disk_free_bytes is not None
            else ""
        )
        yield f"disk for the model {memory_in_words(need.disk_bytes)}{room}"
    elif not plan.model.stored_problem and not node.model_problem and not node.problem:
        yield "the model is there"
    if need.copies_bytes:
        config = plan.wanted.config
        places = filter(None, (config.reshard_checkpoint_path, config.save_mp_checkpoint_path))
        yield f"up to {memory_in_words(need.copies_bytes)} in {' and '.join(places)} while copies are written there"


def placement_lines(plan: Plan) -> Iterator[Line]:
    """Where the gangs would go, and how many there could be."""
    yield from placed_lines(plan.placed, {node.node_id: node.name for node in plan.cluster.nodes})
    yield "", f"room for {_count(plan.gangs_now, 'such gang')} now, for {plan.gangs_idle} if the cluster were idle"


def placed_lines(placed: Sequence[Placed], names: Mapping[str, str]) -> Iterator[Line]:
    """Where gangs would go, or why there is no place; equal ones on one line.

    Args:
        placed: The gangs.
        names: Node id → what people call it.
    """
    said = Counter(
        gang.problem
        or ", ".join(f"{_count(num, 'rank')} on {names.get(node, node)}" for node, num in gang.ranks_by_node.items())
        for gang in placed
    )
    for index, (text, count) in enumerate(said.items()):
        yield ("placement" if not index else ""), escape(f"{_count(count, 'gang')}: {text}")


def holder_lines(plan: Plan) -> Iterator[Line]:
    """Who holds GPUs."""
    if not plan.wanted.use_gpu:
        return
    for index, holder in enumerate(plan.cluster.holders):
        job = f"; job: {holder.job}" if holder.job else ""
        gpus = f"{holder.num_gpus:g} GPU{'s' if holder.num_gpus > 1 else ''}"
        node = plan.cluster.name_of(holder.node_id)
        yield ("GPUs held" if not index else ""), escape(f"{gpus} on {node}: {holder.who}{job}")
    if plan.cluster.holders_problem:
        yield "", escape(plan.cluster.holders_problem)


def closing_lines(plan: Plan) -> Iterator[Line]:
    """Remarks, then problems with their cures."""
    for remark in plan.remarks:
        yield "[yellow]note[/yellow]", escape(remark)
    for problem in plan.problems:
        cure = f"\n[bold]→ {escape(problem.cure)}[/bold]" if problem.cure else ""
        yield "[red]problem[/red]", escape(problem.what) + cure


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}{'s' if num != 1 else ''}"
