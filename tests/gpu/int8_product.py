"""How is the product with int8 weights best cut, and from how many rows on are products of floats faster?

    python -m tests.gpu.int8_product                  # layers of OPT-13b, every way that fits; tables, and a file
    python -m tests.gpu.int8_product --chosen         # only the blocks that the library chooses

Microseconds a product, captured, over copies of the weights that no cache holds together, beside torch's product in
float16 and int8 weights that are made floats first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raydsinfer.engines.int8.blocks import Blocks, blocks_for
from tests.gpu.captured import captured_us

SHAPES = {"qkv": (15360, 5120), "out": (5120, 5120), "up": (20480, 5120), "down": (5120, 20480)}  # outputs, inputs
ROWS = (1, 8, 16, 32, 64, 128, 256)
CACHE_BYTES, COPIED_BYTES, REPLAYS = 160_000, 400 * 2**20, 4
TOLERANCE = 0.02


def ways(num_rows: int) -> list[Blocks]:
    """All that may be sensible and fits in the memory of a processor."""
    fitting = min(max(16, 1 << (num_rows - 1).bit_length()), 256)
    found = []
    for rows, outputs, inputs, warps, stages, parts in itertools.product(
        {fitting, min(fitting, 128)}, (64, 128), (64, 128, 256), (4, 8), (3, 5), (1, 2, 4, 8)
    ):
        fits = stages * inputs * (outputs + 2 * rows) <= CACHE_BYTES
        if fits and outputs * rows <= 128 * 32 * warps:  # 128 registers of a thread for sums
            found.append(Blocks(outputs, rows, inputs, parts, warps, stages))
    return found


def compile_ways(given: list[tuple[int, Blocks]]) -> None:
    """In a process of its own: the compiler keeps what it has compiled in a directory."""
    from raydsinfer.engines.int8.kernel import int8_matmul

    outputs, inputs = SHAPES["out"]
    weight = torch.zeros(outputs, inputs, dtype=torch.int8, device="cuda")
    scale, bias = (torch.ones(outputs, device="cuda", dtype=dtype) for dtype in (torch.float32, torch.float16))
    for rows, way in given:
        try:
            int8_matmul(torch.ones(rows, inputs, device="cuda", dtype=torch.float16), weight, scale, bias, way)
        except Exception as error:  # too large for this device
            print(rows, way, type(error).__name__, str(error)[:100])


@dataclass
class Layer:
    """Copies of a linear layer's weights in both forms: of the same sizes, not the same numbers."""

    name: str
    ints: torch.Tensor
    floats: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, name: str) -> Layer:
        outputs, inputs = SHAPES[name]
        copies = max(2, COPIED_BYTES // (outputs * inputs))
        ints = torch.randint(-127, 128, (copies, outputs, inputs), dtype=torch.int8, device="cuda")
        scale, bias = torch.rand(outputs, 1, device="cuda") / 127, torch.randn(outputs, device="cuda").half()
        return cls(name, ints, torch.randn(ints.shape, device="cuda", dtype=torch.float16), scale, bias)


def measure(layer: Layer, rows: int, only_chosen: bool) -> dict[str, float]:
    """Microseconds of each way, under its name."""
    from raydsinfer.engines.int8.floats_kernel import make_floats
    from raydsinfer.engines.int8.kernel import int8_matmul

    copies, outputs, inputs = layer.ints.shape
    hidden = torch.randn(rows, inputs, device="cuda", dtype=torch.float16)

    def microseconds(product: Callable[[int], object]) -> float:
        return captured_us([partial(product, copy) for copy in range(copies)], replays=REPLAYS)

    def of_floats(copy: int) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, layer.floats[copy], layer.bias)

    def of_made_floats(copy: int) -> torch.Tensor:
        made = make_floats(layer.ints[copy], layer.scale, torch.float16)
        return torch.nn.functional.linear(hidden, made, layer.bias)

    times = {"float16": microseconds(of_floats), "made floats": microseconds(of_made_floats)}
    exact = of_made_floats(0)
    for way in [blocks_for(rows, outputs, inputs, tensor_cores=True), *([] if only_chosen else ways(rows))]:
        product = partial(_product, int8_matmul, hidden, layer, way)
        label = ",".join(map(str, way))
        try:
            if not (product(0) - exact).abs().max() <= TOLERANCE * exact.abs().max():
                print("WRONG", layer.name, rows, label)
                continue
            times[label] = microseconds(product)
        except Exception as error:  # too large for this device
            print(layer.name, rows, label, type(error).__name__, str(error)[:100])
    return times


def _product(multiply: Callable[..., torch.Tensor], hidden: torch.Tensor, layer: Layer, way: Blocks, copy: int) -> Any:
    return multiply(hidden, layer.ints[copy], layer.scale, layer.bias, way)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chosen", action="store_true")
    parser.add_argument("--processes", type=int, default=12, help="that compile")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.chosen:
        todo = [(rows, way) for rows in ROWS for way in ways(rows) if way.parts <= 2]
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            pool.map(compile_ways, [todo[at :: options.processes] for at in range(options.processes)])
        print(len(todo), "compiled", flush=True)
    everything = {}
    for name in SHAPES:
        layer = Layer.of(name)
        everything[name] = {rows: measure(layer, rows, options.chosen) for rows in ROWS}
        for rows, times in everything[name].items():
            chosen = ",".join(map(str, blocks_for(rows, *SHAPES[name], tensor_cores=True)))
            best = sorted(times.items(), key=lambda item: item[1])[:3]
            shown = {way: round(times.get(way, float("nan")), 1) for way in ("float16", "made floats", chosen)}
            print(name, rows, shown, "best:", best, flush=True)
        if options.out:
            options.out.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
