"""What `archcost.accelerate` loses by choosing in seconds: its default against `seconds=60`, in turns.

    taskset -c 0 python benchmarks/thorough.py [--models resnet50 ...] [--seconds 60]

With the seconds, variants of layers are compared inside of the program as well, and every layer with float64.
CPU time of one thread, batch 1; the ratio is the default's time over the other's: 1.05 is 5 % slower.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from networks import NETWORKS, built, noise
from tabulate import tabulate
from torch import Tensor, nn

import archcost
from archcost.latency.timing.clock import compare_calls, ratio


def compared(name: str, seconds: float) -> list[object]:
    """The row of one network."""
    model, x = built(name), noise(name, 1)
    sides = {
        "default": archcost.accelerate(model, x),
        "thorough": archcost.accelerate(model, x, seconds=seconds),
    }
    with torch.inference_mode():
        prepare = {side: partial(_warmed, fast, x) for side, fast in sides.items()}
        found = compare_calls(sides, prepare=prepare, rounds=25, cpu_clock="thread")
    off = ratio(found["default"], found["thorough"])
    ready = [fast.acceleration.ready_s for fast in sides.values()]
    return [name, *(1e3 * found[side].median for side in sides), off.median, off.spread, *ready]


def _warmed(model: nn.Module, x: Tensor) -> Tensor:
    model(x)  # its own weights are in the caches again
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.models:
        rows.append(compared(name, options.seconds))
        print(*rows[-1], flush=True)
    heads = ["network", "default ms", "thorough ms", "ratio", "spread", "default ready s", "thorough ready s"]
    print(tabulate(rows, heads, tablefmt="github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
