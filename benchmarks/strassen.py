"""From which size on Strassen's seven products are faster than the eight of `torch.matmul`, on one thread.

    python benchmarks/strassen.py [--sizes 256 512 1024] [--levels 1 2] [--rounds 9] [--json strassen.json]

Square float32 matrices; `strassen_matmul` with each number of levels and `torch.matmul`, interleaved in one
run (`archcost.latency.timing.clock`), CPU time of the thread, median and interquartile range. Blocks
of memory stay with the process, for both sides; `--fresh-memory` leaves that to the C library, and then page
faults are part of the time. The cross-over is the first size from which on a number of levels is faster at
every size measured. Last comes a convolution, where the same matrix product is far from square.

The file that --json writes is what `archcost.plot.strassen(measured=...)` draws.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import torch

from archcost import ConvSpec
from archcost.latency.timing.clock import Timing, compare_calls, ratio
from archcost.paths import get, strassen_matmul
from archcost.plot.drawing.strassen import crossover

SIZES = (256, 512, 1024, 2048, 3072, 4096)
LAYER = ConvSpec(512, 512, 3, padding=1, input_size=(28, 28), bias=False)


def keep_blocks() -> None:
    """Large blocks stay with the process: else page faults are timed as compute (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            ctypes.CDLL(None).mallopt(option, value)


def products(size: int, levels: list[int], rounds: int) -> dict[int, Timing]:
    """The ordinary product is level 0."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(size, size, generator=generator), torch.randn(size, size, generator=generator)
    calls = {"0": partial(torch.matmul, a, b)}
    calls |= {str(level): partial(strassen_matmul, a, b, level) for level in levels}
    timings = compare_calls(calls, rounds=rounds, cpu_clock="thread")
    return {int(name): timing for name, timing in timings.items()}


def rows_of(size: int, timings: dict[int, Timing]) -> list[dict[str, Any]]:
    """What `archcost.plot.strassen` takes."""
    return [
        {
            "size": size,
            "levels": level,
            "seconds": timing.median,
            "spread": timing.spread,
            "ratio": ratio(timing, timings[0]).median,
            "kept": timing.kept,
            "dropped": timing.dropped,
        }
        for level, timing in timings.items()
    ]


def show(row: dict[str, Any]) -> str:
    kept = f"{row['kept']}/{row['kept'] + row['dropped']}"
    return f"{row['seconds'] * 1e3:9.2f} +- {row['spread'] * 1e3:6.2f} ({row['ratio']:.3f}, {kept})"


def convolution(levels: list[int], rounds: int) -> None:
    """One layer by im2col, with and without Strassen's products, and by PyTorch itself."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, LAYER.in_channels, *LAYER.input_size, generator=generator)
    weight = torch.randn(LAYER.out_channels, LAYER.in_channels, 3, 3, generator=generator)
    calls = {}
    for name in ("im2col", *(f"strassen-{level}" for level in levels), "native"):
        path = get(name)
        calls[name] = partial(path.run, x, path.prepare(weight, None, LAYER))
    timings = compare_calls(calls, rounds=3 * rounds, cpu_clock="thread")
    rows, inner, columns = LAYER.out_channels, LAYER.in_channels * 9, 28 * 28
    print(f"\n3x3, 512 channels to 512, map 28x28: a product of {rows}x{inner} by {inner}x{columns}, ms")
    for name, timing in timings.items():
        against = ratio(timing, timings["im2col"]).median
        print(
            f"  {name:12}{timing.median * 1e3:8.2f} +- {timing.spread * 1e3:5.2f} ({against:.2f} of im2col)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fresh-memory", action="store_true", help="leave freed memory to the C library")
    parser.add_argument("--json", type=Path, help="write the times to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if not chosen.fresh_memory:
        keep_blocks()
    print(f"PyTorch {torch.__version__}, {platform.machine()}, one thread, float32")
    print("ms: median +- spread (of the time of torch.matmul, samples kept)\n")
    print(f"{'size':>5}  {'torch.matmul':>34}" + "".join(f"  {f'strassen, {n}':>34}" for n in chosen.levels))
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for size in sorted(chosen.sizes):
            rows += (found := rows_of(size, products(size, chosen.levels, chosen.rounds)))
            print(f"{size:5}  " + "  ".join(f"{show(row):>34}" for row in found), flush=True)
        for level in chosen.levels:
            at = crossover(rows, level)
            print(f"strassen, {level}: " + (f"faster from {at} on" if at else "no cross-over"))
        if chosen.json:
            where = f"one thread, PyTorch {torch.__version__}"
            chosen.json.write_text(json.dumps({"where": where, "rows": rows}, indent=1) + "\n")
        convolution(chosen.levels, chosen.rounds)


if __name__ == "__main__":
    main()
