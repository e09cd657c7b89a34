"""What receptive fields cost on top of `archcost.analyze`, and whether the input's size matters.

    pip install ".[bench]"
    python benchmarks/receptive_field.py
    python benchmarks/receptive_field.py --models resnet152 --rounds 15 --json out.json

In each round, in turns: `analyze` of the model as it is; the fields of all its modules, the network and the
output, from the Trace that `analyze` made; and the same fields at an input of four times the side. CPU
seconds of the process; interrupted samples are left out (`archcost.latency.timing`). Every ratio is formed
within rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyze import alone, build, describe_machine

MODELS = ("resnet152", "densenet201", "convnext_base")
SIDE, LARGE = 224, 896
MOST_ON_TOP = 0.5
SAME_SIZE = 1.25
"""A larger ratio of the two sizes would not be called independent of the input's size."""


@dataclass
class Result:
    """The fields of one model; times in CPU seconds, ratios are medians over rounds."""

    model: str
    analyze_seconds: float
    analyze_spread: float
    fields_seconds: float
    fields_spread: float
    on_top: float
    on_top_spread: float
    large_seconds: float
    large_ratio: float
    large_ratio_spread: float
    modules: int
    kept: str
    disturbed: bool


def measure(name: str, rounds: int, threads: int | None) -> Result:
    """All numbers of one model; called in a process of its own."""
    import torch

    import archcost
    from archcost.fields.fields import Fields
    from archcost.latency.timing.clock import compare_calls, ratio

    warnings.simplefilter("ignore")
    if threads is not None:
        torch.set_num_threads(threads)
    model = build(name)
    traces = {side: archcost.analyze(model, input_size=(1, 3, side, side)).trace for side in (SIDE, LARGE)}

    def analyze() -> Any:
        analysis = archcost.analyze(model, input_size=(1, 3, SIDE, SIDE))
        return analysis.total, analysis.modules

    def fields(side: int) -> Any:
        found = Fields(traces[side])
        return found.by_name, found.network, found.output

    calls = {"analyze": analyze, "fields": lambda: fields(SIDE), "large": lambda: fields(LARGE)}
    timings = compare_calls(calls, rounds=rounds, gc_enabled=True, switches_per_second=50.0)
    base, ours, large = (timings[key] for key in calls)
    on_top, bigger = ratio(ours, base), ratio(large, ours)
    return Result(
        model=name,
        analyze_seconds=base.median,
        analyze_spread=base.spread,
        fields_seconds=ours.median,
        fields_spread=ours.spread,
        on_top=on_top.median,
        on_top_spread=on_top.spread,
        large_seconds=large.median,
        large_ratio=bigger.median,
        large_ratio_spread=bigger.spread,
        modules=len(Fields(traces[SIDE]).by_name),
        kept=f"{base.kept}, {ours.kept}, {large.kept} / {base.dropped}, {ours.dropped}, {large.dropped}",
        disturbed=base.disturbed or ours.disturbed or large.disturbed,
    )


def table(results: list[Result]) -> str:
    from tabulate import tabulate

    headers = [
        *("model", "modules", "analyze, s", "spread", "fields, s", "spread", "fields / analyze", "spread"),
        *(f"fields at {LARGE} px, s", f"{LARGE} px / {SIDE} px", "spread", "kept / dropped"),
    ]
    lines = [
        [
            r.model,
            r.modules,
            f"{r.analyze_seconds:.4f}",
            f"{r.analyze_spread:.4f}",
            f"{r.fields_seconds:.4f}",
            f"{r.fields_spread:.4f}",
            f"{r.on_top:.2f}",
            f"{r.on_top_spread:.2f}",
            f"{r.large_seconds:.4f}",
            f"{r.large_ratio:.2f}",
            f"{r.large_ratio_spread:.2f}",
            r.kept + (" DISTURBED" if r.disturbed else ""),
        ]
        for r in results
    ]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def claims(result: Result) -> list[str]:
    """One line for each claim about one model."""
    cheap, same = result.on_top <= MOST_ON_TOP, result.large_ratio <= SAME_SIZE
    return [
        f"{result.model}: at most {MOST_ON_TOP:.0%} on top of analyze: {_yes(cheap)} ({result.on_top:.0%})",
        f"{result.model}: no dearer at {LARGE} px: {_yes(same)} ({result.large_ratio:.2f} times)",
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def main() -> int:
    parser = argparse.ArgumentParser(description="receptive fields, on top of archcost.analyze")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names in torchvision.models")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every number there too")
    options = parser.parse_args()
    machine = describe_machine(options.threads)
    print(f"{machine}\n")
    results = [alone(measure, name, options.rounds, options.threads) for name in options.models]
    print(table(results), "", *(line for result in results for line in claims(result)), sep="\n")
    if options.json is not None:
        content = {"machine": machine, "rounds": options.rounds, "rows": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
