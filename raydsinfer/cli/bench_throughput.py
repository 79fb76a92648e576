"""`raydsinfer bench throughput`: engines side by side on the same workloads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from raydsinfer.cli.bench_device import chosen_device
from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.errors import InvalidSettingError

if TYPE_CHECKING:
    from raydsinfer.bench.workloads import Workload


def throughput(
    shape: Annotated[
        str | None,
        typer.Option(
            help="Sizes of a published model, with random weights: opt-125m to opt-66b, llama-7b, llama-8b, gpt2-xl, "
            "gpt-neo-2.7b, gpt-j-6b, pythia-6.9b, bloom-7b1; or opt-tiny."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model's directory, URL or hub name, instead of a shape.")] = None,
    engines: Annotated[
        str,
        typer.Option(
            help="By comma: continuous, static (AutoTP and generate), kernel-inject, transformers (one rank). "
            "NAME+SETTING=VALUE sets something for one of them. The first is what the others are compared with."
        ),
    ] = "continuous,static",
    workloads: Annotated[
        str,
        typer.Option(help="By comma: uniform, mixed, mixed:REQUESTS, shared-prefix, shared-prefix:REQUESTS:TOKENS."),
    ] = "uniform,mixed",
    batches: Annotated[str, typer.Option(help="Requests of each uniform workload, by comma.")] = "1,32,128,256",
    tp: Annotated[
        int, typer.Option(min=1, help="Ranks that share the model; each needs a GPU unless --device cpu.")
    ] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each workload is timed; medians count.")] = 3,
    max_running: Annotated[int, typer.Option(min=1, help="Sequences at once: continuous, and the floor.")] = 256,
    step_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of a step: continuous.")] = None,
    attention: Annotated[str | None, typer.Option(help="Attention over the paged KV cache: continuous.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch: static engines.")] = 128,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16, bfloat16 or int8.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any engine setting, for all engines.")
    ] = None,
    num_layers: Annotated[int | None, typer.Option(min=1, help="Another number of layers than the shape has.")] = None,
    same_layers: Annotated[
        bool, typer.Option(help="Write one random layer many times: a large model is there sooner.")
    ] = False,
    directory: Annotated[
        Path, typer.Option(help="Where random weights are written, and found again. Memory is fastest.")
    ] = Path("/dev/shm/raydsinfer-bench"),  # noqa: S108
    device: Annotated[str, typer.Option(help="cuda or cpu. [default: cuda if there is one]", show_default=False)] = "",
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one engine.")] = 3600.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", help="Draw them: a .png, .svg or .pdf. Needs raydsinfer\\[bench].")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run the same requests through several engines, and compare with the roofline.

    Each engine runs in fresh processes without Ray: it loads once, warms up, then runs every workload.
    Start-up and warm-up are apart. Every request generates exactly its number of tokens, greedily.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.bench.throughput.case import engine_configs, settings_from, sized
        from raydsinfer.bench.throughput.suite import ThroughputSuite
        from raydsinfer.cli.bench_report import ThroughputReport

        chosen = chosen_device(device, tp)
        if plot_path is not None:
            from raydsinfer.bench.throughput.plot import require_plot

            require_plot(plot_path)
        common = {"dtype": dtype, "max_batch_size": max_batch_size, **settings_from(set_ or [])}
        continuous = {"max_running": max_running, "max_step_tokens": step_tokens, "attention": attention}
        continuous = {name: value for name, value in continuous.items() if value is not None}
        names = [name.strip() for name in engines.split(",")]
        configs = engine_configs(names, common, continuous)
        _workloads(workloads, batches, None)  # mistakes are told before weights are written
        path, title = _model(shape, model, num_layers, directory, console, same_layers=same_layers)
        wanted = _workloads(workloads, batches, path)
        suite = ThroughputSuite(
            model=path,
            configs={label: sized(config, wanted) for label, config in configs.items()},
            workloads=tuple(wanted),
            tp_size=tp,
            device=chosen,
            rounds=rounds,
            timeout_s=timeout_s,
        )
        report = ThroughputReport(
            suite=suite, title=title, max_running=max_running, json_path=json_path, plot_path=plot_path
        )
        results = report.measure(console)
        report.show(results, Console(width=None if Console().is_terminal else 100))
        failed = any(result.failure for result in results)
    raise typer.Exit(ExitCode.FAILURE if failed else ExitCode.OK)


def _model(
    shape: str | None,
    model: str | None,
    num_layers: int | None,
    directory: Path,
    console: Console,
    *,
    same_layers: bool,
) -> tuple[str, str]:
    """Where the model is, and what it is called."""
    if (shape is None) == (model is None):
        raise InvalidSettingError(
            name="--shape", value=shape, expected="either a shape or --model", hint="Try --shape opt-125m."
        )
    if model is not None:
        if num_layers is not None:
            raise InvalidSettingError(name="--num-layers", value=num_layers, expected="to go with --shape")
        return model, Path(model).name
    from raydsinfer.bench.shapes import shape as sizes_of
    from raydsinfer.bench.stored import stored_model

    sizes = sizes_of(str(shape), num_layers)
    stem = f"{shape}-{sizes['num_hidden_layers']}{'-same' if same_layers else ''}-safetensors"
    path = stored_model(
        directory / stem,
        sizes,
        "safetensors",
        lambda line: console.print(line, highlight=False, markup=False),
        same_layers=same_layers,
    )
    layers = "" if num_layers is None else f", {num_layers} layers"
    return str(path), f"{shape}{layers}"


def _workloads(words: str, batches: str, model: str | None) -> list[Workload]:
    """The workloads for a model's vocabulary; without a model only to see whether they exist."""
    from raydsinfer.bench.workloads import LAST_TOKEN, workloads_from
    from raydsinfer.checkpoints.sources.fetch import local_directory
    from raydsinfer.engines.model import read_config

    sizes = [batch.strip() for batch in batches.split(",")]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise InvalidSettingError(name="--batches", value=batches, expected="numbers above 0, by comma")
    vocab_size = LAST_TOKEN
    if model is not None:
        vocab_size = read_config(local_directory(model, weights=False)).get_text_config().vocab_size
    names = [word.strip() for word in words.split(",")]
    return workloads_from(names, [int(size) for size in sizes], vocab_size=vocab_size)
