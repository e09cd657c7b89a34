"""Whole models, `archcost.accelerate` against what PyTorch can do by itself, interleaved in one run.

    python benchmarks/accelerate.py [--models vgg16 resnet18 ...] [--batch 1] [--threads 1] [--seconds 60]
                                    [--rounds 15] [--compile] [--no-nan] [--layers]

The sides: *eager* (the model as it is, which is what people run), *channels_last* (the same, model and
input in that layout), *pre-packed* (convolution, batch normalisation and activation folded, each layer on
the fastest of PyTorch's own ways, weights packed once), *compiled* with --compile (`torch.compile` with
freezing), and *accelerate*; with --no-nan also *accelerate, NaN lost*, which clamps as `torch.compile` does
(*pre-packed* always does). Milliseconds: the median and the interquartile range over all rounds; CPU time
of the thread with one thread, wall time with more; interrupted samples are dropped and counted. Ratios are
medians over rounds. Large freed blocks stay with the process on all sides, and denormals are off. Errors
are against the original in float64, relative to the largest output.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from networks import built, noise
from torch import nn

import archcost
from archcost import accelerate, kernels
from archcost.latency.timing.clock import Timing, compare_calls, interquartile, ratio
from archcost.latency.timing.settings import settings

MODELS = (
    *("vgg16", "resnet18", "resnet50", "googlenet", "alexnet", "inception_v3", "replk", "mobilenet_v2"),
)
OWN = ["native", "native-channels-last", "native-prepacked"]


def sides(model: nn.Module, x: torch.Tensor, chosen: argparse.Namespace) -> dict[str, tuple[nn.Module, Any]]:
    """By name, a model and the input it is to have."""
    import copy

    last = x.contiguous(memory_format=torch.channels_last)
    layout: Any = torch.channels_last
    found: dict[str, tuple[nn.Module, Any]] = {
        "eager": (model, x),
        "channels_last": (copy.deepcopy(model).to(memory_format=layout), last),
        "pre-packed": (
            accelerate(model, x, paths=OWN, seconds=chosen.seconds / 2, keeps_nan=False, store=False),
            x,
        ),
        "accelerate": (accelerate(model, x, seconds=chosen.seconds, store=False), x),
    }
    if chosen.no_nan:
        loose = accelerate(model, x, seconds=chosen.seconds, keeps_nan=False, store=False)
        found["accelerate, NaN lost"] = (loose, x)
    if chosen.compile:
        import torch._inductor.config as inductor

        inductor.freezing = True
        frozen = torch.compile(copy.deepcopy(found["channels_last"][0]), dynamic=False)
        with torch.no_grad():
            frozen(last), frozen(last)
        found["compiled"] = (frozen, last)
    return found


def table(name: str, chosen: argparse.Namespace, batch: int, threads: int) -> None:
    model, x = built(name), noise(name, batch)
    with settings(threads=threads, keep_blocks=True):
        found = sides(model, x, chosen)
        exact = model.double()(x.double()).detach()
        model.float()
        with torch.no_grad():
            errors = {side: worst(one(given), exact) for side, (one, given) in found.items()}
            calls = {side: caller(one, given) for side, (one, given) in found.items()}
            timings = compare_calls(
                calls,
                rounds=chosen.rounds,
                warmup=2,
                cpu_clock="thread" if threads == 1 else "process",
            )
    others = [timings[side] for side in timings if not side.startswith("accelerate")]
    strongest = min(others, key=lambda one: milliseconds(one, threads)[0])
    print(f"\n{name}, batch {batch}, {threads} thread{'s' * (threads != 1)}")
    for side, timing in timings.items():
        middle, spread = milliseconds(timing, threads)
        said = ratio(timings["eager"], timing, wall=threads > 1)
        print(
            f"  {side:22}{middle:9.2f} ms, spread {spread:6.2f}, {timing.kept:3} kept, "
            f"{timing.dropped:2} dropped, error {errors[side]:.0e}, {said.median:5.2f}x eager"
        )
    for side in timings:
        if side.startswith("accelerate"):
            said = ratio(strongest, timings[side], wall=threads > 1)
            times = f"{said.median:.2f}x (spread {said.spread:.2f})"
            print(f"  {side} is {times} the strongest, {strongest.name}", flush=True)
    if chosen.layers:
        print(found["accelerate"][0].acceleration)


def caller(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: model(x)


def milliseconds(timing: Timing, threads: int) -> tuple[float, float]:
    """Median and interquartile range."""
    if threads == 1:
        return 1e3 * timing.median, 1e3 * timing.spread
    return 1e3 * timing.wall_median, 1e3 * interquartile(timing.wall_seconds)


def worst(y: torch.Tensor, exact: torch.Tensor) -> float:
    return ((y.double() - exact).abs().max() / exact.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="of torchvision, or replk")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=60.0, help="that accelerate may measure")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile with freezing too")
    parser.add_argument("--no-nan", action="store_true", help="accelerate(keeps_nan=False) too")
    parser.add_argument("--layers", action="store_true", help="what accelerate chose, layer by layer")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"PyTorch {torch.__version__}, archcost {archcost.__version__}, kernels {kernels.isa()}")
    for threads in chosen.threads:
        for batch in chosen.batch:
            for name in chosen.models:
                table(name, chosen, batch, threads)


if __name__ == "__main__":
    main()
