"""How long `archcost.analyze` takes, against the counters that people use today.

    pip install ".[bench]"
    python benchmarks/analyze.py
    python benchmarks/analyze.py --models resnet50 r3d_18 --tools fvcore thop --rounds 21 --json out.json

Needs archcost, torch, torchvision and tabulate; compares with those of fvcore, torchinfo, thop, ptflops
and calflops (which needs transformers and accelerate) that are installed, and with torch's FlopCounterMode.

How it is timed. Every tool does its whole job on the same model in eval mode, called as its own README
says, with what it prints switched off or sent nowhere. The tools take turns in one process, in a new order
every round, after an untimed call of each; the garbage collector stays on and is run before each sample.
The time is CPU time of the process, all threads together; samples during which the system took the
processor away more than 50 times a second of CPU are dropped and counted (one switch costs some
microseconds; with two or more threads computing, a few a second are always there). As some tools leave
traces in a model, each call gets a fresh copy, made outside of the timed part. Each model has a process of
its own; when a tool crashes, the others are timed again without it, as it may leave patches behind.

CPU time of a real forward pass grows with the number of threads, spinning ones included: run it with
`--threads 1` as well, where CPU time and wall time are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

OURS = "archcost"

# Name in torchvision.models (or torchvision.models.video) -> input size, batch included.
MODELS = {
    "resnet50": (1, 3, 224, 224),
    "convnext_base": (1, 3, 224, 224),
    "vit_b_16": (1, 3, 224, 224),
    "swin_v2_t": (1, 3, 256, 256),
    "efficientnet_v2_s": (1, 3, 224, 224),
    "r3d_18": (1, 3, 16, 112, 112),
}

Size = tuple[int, ...]


def run_archcost(model: Any, size: Size) -> Any:
    import archcost

    analysis = archcost.analyze(model, input_size=size)
    return analysis.total, analysis.modules, analysis.operations, analysis.uncounted


def run_fvcore(model: Any, size: Size) -> Any:
    import torch
    from fvcore.nn import FlopCountAnalysis

    flops = FlopCountAnalysis(model, torch.randn(size))
    flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return flops.total(), flops.by_module()


def run_torchinfo(model: Any, size: Size) -> Any:
    from torchinfo import summary

    return summary(model, input_size=size, verbose=0)


def run_thop(model: Any, size: Size) -> Any:
    import torch
    from thop import profile

    return profile(model, inputs=(torch.randn(size),), verbose=False)


def run_ptflops(model: Any, size: Size, backend: str) -> Any:
    from ptflops import get_model_complexity_info

    # It adds the batch dimension itself, and answers None where it failed.
    found = get_model_complexity_info(
        model, size[1:], as_strings=True, backend=backend, print_per_layer_stat=False, verbose=False
    )
    if found[0] is None:
        raise RuntimeError("returned None")
    return found


def run_calflops(model: Any, size: Size) -> Any:
    from calflops import calculate_flops

    return calculate_flops(
        model=model, input_shape=size, output_as_string=True, output_precision=4, print_results=False
    )


def run_flop_counter_mode(model: Any, size: Size) -> Any:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(torch.randn(size))
    return counter.get_total_flops(), counter.get_flop_counts()


@dataclass(frozen=True)
class Tool:
    run: Callable[..., Any]
    package: str


TOOLS = {
    OURS: Tool(run_archcost, "archcost"),
    "fvcore": Tool(run_fvcore, "fvcore"),
    "torchinfo": Tool(run_torchinfo, "torchinfo"),
    "thop": Tool(run_thop, "thop"),
    "ptflops (pytorch)": Tool(partial(run_ptflops, backend="pytorch"), "ptflops"),
    "ptflops (aten)": Tool(partial(run_ptflops, backend="aten"), "ptflops"),
    "calflops": Tool(run_calflops, "calflops"),
    "FlopCounterMode": Tool(run_flop_counter_mode, "torch"),
}


@dataclass
class Row:
    """One tool on one model."""

    model: str
    tool: str
    cpu_seconds: float | None = None
    spread: float | None = None
    wall_seconds: float | None = None
    ratio: float | None = None
    """CPU time as a multiple of archcost's, paired within rounds."""
    ratio_spread: float | None = None
    wall_ratio: float | None = None
    kept: int = 0
    dropped: int = 0
    disturbed: bool = False
    problem: str = ""
    samples: list[float] = field(default_factory=list)


def build(name: str, **options: Any) -> Any:
    from torchvision import models

    make = getattr(models, name, None) or getattr(models.video, name)
    return make(weights=None, **options).eval()


def measure(
    name: str, tools: list[str], rounds: int, threads: int | None, without: dict[str, str]
) -> list[Row]:
    """Time the tools on one model; called in a process of its own."""
    import torch

    from archcost.latency.timing.clock import compare_calls, ratio

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, size = build(name), MODELS[name]
    problems = dict(without)
    calls: dict[str, Callable[..., Any]] = {}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for tool in tools:
            if tool in problems:
                continue
            known = TOOLS[tool]
            try:
                known.run(copy.deepcopy(model), size)
            except ImportError as error:
                problems[tool] = f"not installed ({error})"
            except Exception as error:
                problems[tool] = f"crashed: {type(error).__name__}: {error}".splitlines()[0]
            else:
                calls[tool] = partial(known.run, size=size)
        fresh = dict.fromkeys(calls, partial(copy.deepcopy, model))
        timings = compare_calls(
            calls, rounds=rounds, prepare=fresh, gc_enabled=True, switches_per_second=50.0
        )
    rows = []
    for tool in tools:
        if tool in problems:
            rows.append(Row(name, tool, problem=problems[tool]))
            continue
        timing, ours = timings[tool], timings[OURS]
        times, wall = ratio(timing, ours), ratio(timing, ours, wall=True)
        rows.append(
            Row(
                name,
                tool,
                timing.median,
                timing.spread,
                timing.wall_median,
                times.median,
                times.spread,
                wall.median,
                timing.kept,
                timing.dropped,
                timing.disturbed,
                samples=list(timing.cpu_seconds),
            )
        )
    return rows


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure_cleanly(name: str, tools: list[str], rounds: int, threads: int | None) -> list[Row]:
    """As `measure`, again without the tools that crashed, in a process that they have not touched."""
    rows = alone(measure, name, tools, rounds, threads, {})
    crashed = {row.tool: row.problem for row in rows if row.problem.startswith("crashed")}
    return alone(measure, name, tools, rounds, threads, crashed) if crashed else rows


def describe_machine(threads: int | None) -> str:
    import torch

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    packages = ["archcost", "torch", "torchvision", *sorted({t.package for t in TOOLS.values()})]
    versions = []
    for package in dict.fromkeys(packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} (no version: not installed)")
    return (
        f"{cpu}, {os.cpu_count()} CPUs, {threads or torch.get_num_threads()} torch threads; "
        f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}"
    )


def table(rows: list[Row]) -> str:
    from tabulate import tabulate

    lines = []
    for row in rows:
        if row.problem:
            lines.append([row.model, row.tool, row.problem[:60], *[""] * 5])
            continue
        lines.append(
            [
                row.model,
                row.tool,
                _number(row.cpu_seconds, 4),
                _number(row.spread, 4),
                _number(row.wall_seconds, 4),
                f"{_number(row.ratio, 2)} ± {_number(row.ratio_spread, 2)}",
                _number(row.wall_ratio, 2),
                f"{row.kept} / {row.dropped}{' DISTURBED' if row.disturbed else ''}",
            ]
        )
    headers = [
        "model",
        "tool",
        "CPU s",
        "spread",
        "wall s",
        "CPU, tool / archcost",
        "wall, tool / archcost",
        "kept / dropped",
    ]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def claims(rows: list[Row]) -> list[str]:
    """One line for each claim, with its exceptions."""
    peers = [row for row in rows if row.tool != OURS and row.ratio is not None]
    fvcore = [row for row in peers if row.tool == "fvcore"]
    lines = [_claim("faster than each tool on each model", peers, 1.0)]
    if fvcore:
        lines.append(_claim("at least 3 times faster than fvcore on each model", fvcore, 3.0))
    missing = [f"{row.tool} on {row.model}" for row in rows if row.problem]
    if missing:
        lines.append(f"not compared: {', '.join(missing)}")
    disturbed = [f"{row.tool} on {row.model}" for row in rows if row.disturbed]
    if disturbed:
        lines.append(f"every sample interrupted, not to be trusted: {', '.join(disturbed)}")
    return lines


def _claim(text: str, rows: list[Row], least: float) -> str:
    def fails(row: Row) -> bool:
        return row.ratio is None or row.ratio < least

    exceptions = [f"{row.tool} on {row.model} ({_number(row.ratio, 2)})" for row in rows if fails(row)]
    if not rows:
        return f"{text}: nothing to compare with"
    slowest = min(rows, key=lambda row: row.ratio or 0.0)
    closest = f"closest: {slowest.tool} on {slowest.model}, {_number(slowest.ratio, 2)} times"
    return f"{text}: {'NO, except ' + ', '.join(exceptions) if exceptions else 'yes'} ({closest})"


def main() -> int:
    parser = argparse.ArgumentParser(description="archcost.analyze against other counters, in CPU seconds")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--tools", nargs="+", choices=[t for t in TOOLS if t != OURS], default=list(TOOLS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, help="torch threads; by default as many as torch takes")
    parser.add_argument("--json", type=Path, help="write every number there too")
    options = parser.parse_args()
    machine = describe_machine(options.threads)
    print(f"{machine}\n")
    tools = list(dict.fromkeys([OURS, *options.tools]))
    rows: list[Row] = []
    for name in options.models:
        print(f"timing {name} ...", file=sys.stderr)
        rows += measure_cleanly(name, tools, options.rounds, options.threads)
    print(table(rows), "", *claims(rows), sep="\n")
    if options.json is not None:
        result = {"machine": machine, "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
