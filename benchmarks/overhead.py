"""What `archcost.accelerate` costs beside the program: a call's time around it, and the peak of memory.

    python benchmarks/overhead.py [--models mobilenet_v3_large ...] [--memory]

*Look*: what runs in front of every call to see whether the program still stands for the model, in the state
in which a pass of the network leaves the caches, by part. *Around*: the whole call less the program alone.
*Modules*: how much longer a call takes that PyTorch's own modules do, at another input size. CPU time of one
thread, medians. *Peak*: resident memory of a process that builds the network and runs it, and of one that
accelerates it as well, both at their highest (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from networks import built, noise
from resident import resident
from tabulate import tabulate
from torch import nn

import archcost
from archcost.engine import module
from archcost.engine.findings import Findings
from archcost.latency.timing.clock import compare_calls

MODELS = ["mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1", "densenet121", "resnet50"]
PEAKS = ["resnet50", "vgg16", "densenet121"]
ROUNDS = 150


def microseconds(parts: dict[str, Callable[[], object]], before: Callable[[], object]) -> dict[str, float]:
    """The median of each, one after the other behind a pass of the network."""
    taken: dict[str, list[int]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        before()
        for name, part in parts.items():
            began = time.thread_time_ns()
            part()
            taken[name].append(time.thread_time_ns() - began)
    return {name: median(found[ROUNDS // 10 :]) / 1e3 for name, found in taken.items()}


def times(name: str, seconds: float | None) -> dict[str, float]:
    """Microseconds of the parts of a call, and percent of the whole."""
    model, x = built(name), noise(name, 1)
    with tempfile.TemporaryDirectory() as folder:
        options = {} if seconds is None else {"seconds": seconds}
        fast = archcost.accelerate(model, x, store=Path(folder, "store"), progress=False, **options)
    engine = fast._archcost_engine
    recipe, program = engine.recipe, engine.program
    assert recipe is not None, fast.acceleration.reason
    with torch.no_grad():
        found = microseconds(
            {
                "modes": lambda: module._looked_on(),
                "arguments": lambda: recipe.arguments.tensors((x,), {}),
                "structure": lambda: engine._structure.holds(),
                "weights": lambda: engine._weights.hold(),
            },
            before=lambda: program([x]),
        )
        found |= microseconds({"look": lambda: engine.ready(fast, (x,), {})}, before=lambda: program([x]))
        both = compare_calls({"call": lambda: fast(x), "program": lambda: program([x])}, rounds=40, warmup=2)
        small = nn.functional.interpolate(x, scale_factor=0.75)
        own = compare_calls({"fast": lambda: fast(small), "model": lambda: model(small)}, rounds=25, warmup=2)
    call = 1e6 * both["call"].median
    return {
        "program ms": 1e3 * both["program"].median,
        **{f"{part} us": value for part, value in found.items()},
        "look %": 100 * found["look"] / call,
        "around %": 100 * (1 - 1e6 * both["program"].median / call),
        "modules %": 100 * (own["fast"].median / own["model"].median - 1),
    }


def peak(name: str, accelerated: bool) -> int:
    """Bytes of this process."""
    torch.set_num_threads(1)
    model, x = built(name), noise(name, 1)
    if accelerated:
        Findings.gains = lambda self: True  # type: ignore[method-assign]  # however busy the machine is
        with tempfile.TemporaryDirectory() as folder:
            model = archcost.accelerate(model, x, store=Path(folder, "store"), progress=False)
        assert model.acceleration.changed, model.acceleration.reason
    with torch.inference_mode():
        for _ in range(3):
            model(x)
    return resident("VmHWM")


def peaks(name: str) -> dict[str, float]:
    """Megabytes, each in a process of its own."""
    eager, fast = (
        json.loads(subprocess.run([sys.executable, __file__, name, side], stdout=-1, check=True).stdout)
        for side in ("eager", "accelerated")
    )
    return {"eager MB": eager / 1e6, "accelerated MB": fast / 1e6, "ratio": fast / eager}


def main() -> None:
    if sys.argv[2:] in (["eager"], ["accelerated"]):
        print(json.dumps(peak(sys.argv[1], sys.argv[2] == "accelerated")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--memory", action="store_true", help="peaks of memory instead of times")
    parser.add_argument("--seconds", type=float, help="that archcost may measure; by default its own choice")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {"network": name, **(peaks(name) if chosen.memory else times(name, chosen.seconds))}
        for name in chosen.models or (PEAKS if chosen.memory else MODELS)
    ]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f"))


if __name__ == "__main__":
    main()
