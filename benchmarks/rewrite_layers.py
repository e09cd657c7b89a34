"""Single layers for `rewrite.py`: what a share of the MACs is in time, with PyTorch's own convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan

import torch
from torch import Tensor, nn

import archcost
from archcost import ConvSpec
from archcost.latency.timing.clock import compare_calls, ratio
from archcost.latency.timing.settings import settings
from archcost.rewriting.proposal import Proposal

__all__ = ["layers_table"]


def dense(channels: int, outs: int, size: int, kernel: int) -> ConvSpec:
    """With bias, and padding that keeps the size."""
    return ConvSpec(channels, outs, kernel, padding=kernel // 2, input_size=(size, size))


def depthwise(channels: int, size: int, kernel: int) -> ConvSpec:
    return ConvSpec(channels, channels, kernel, padding=kernel // 2, groups=channels, input_size=(size, size))


LAYERS = {
    "3x3, 64, 56x56": dense(64, 64, 56, 3),
    "3x3, 256, 14x14": dense(256, 256, 14, 3),
    "5x5, 48 -> 64, 35x35": dense(48, 64, 35, 5),
    "5x5, 64 -> 192, 27x27": dense(64, 192, 27, 5),
    "7x7, 64, 28x28": dense(64, 64, 28, 7),
    "5x5 depthwise, 240, 28x28": depthwise(240, 28, 5),
    "5x5 depthwise, 672, 14x14": depthwise(672, 14, 5),
    "7x7 depthwise, 192, 28x28": depthwise(192, 28, 7),
}

UNKNOWN = 0.1
"""What stands for a spread that is not known, since too few rounds were left alone."""


def layers_table(rules: Sequence[str], asked: float, rounds: int) -> None:
    """Every layer, a batch of one, by every rule that applies to it: MACs and time, new over old."""
    print(f"\n{'layer':28}{'ms':>8}  {'rule':15}{'options':44}{'MACs':>6}{'time':>7}{'spread':>8}")
    slower: list[str] = []
    for label, spec in LAYERS.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(*_arguments(spec), padding=spec.padding[0][0], groups=spec.groups))
        x = torch.randn(1, spec.in_channels, *spec.input_size)
        for milliseconds, one, times, spread in timed(model.eval(), x, rules, asked, rounds):
            options = ", ".join(f"{key}={value}" for key, value in one.options.items())
            text = f"{one.rule:15}{options:44}{one.macs_ratio:6.2f}{times:7.2f}{spread:8.2f}"
            print(f"{label:28}{milliseconds:8.2f}  {text}", flush=True)
            if one.macs_ratio < 1 < times - (UNKNOWN if isnan(spread) else spread):
                slower.append(
                    f"{label} by {one.rule} ({options}): {one.macs_ratio:.2f} MACs, {times:.2f} time"
                )
    print(f"\nfewer MACs, slower by more than the spread: {len(slower)}")
    print("".join(f"  {case}\n" for case in slower), end="", flush=True)


def _arguments(spec: ConvSpec) -> tuple[int, int, int]:
    return spec.in_channels, spec.out_channels, spec.kernel_size[0]


def timed(
    model: nn.Module, x: Tensor, rules: Sequence[str], asked: float, rounds: int
) -> Iterator[tuple[float, Proposal, float, float]]:
    """Old milliseconds, a proposal, new time over old and its interquartile range; weights are random."""
    found = archcost.propose(model, x, rules=rules, ratio=asked, errors=False, store=False, progress=False)
    with settings(threads=1, keep_blocks=True), torch.no_grad():
        for one in found:
            new = archcost.Plan([one]).apply(model, weights=False)
            timings = compare_calls(
                {"old": caller(model, x), "new": caller(new, x)},
                rounds=rounds,
                warmup=2,
                block=0.01,
                cpu_clock="thread",
            )
            times = ratio(timings["new"], timings["old"])
            yield 1e3 * timings["old"].median, one, times.median, times.spread


def caller(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: model(x)
