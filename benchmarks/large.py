"""What `archcost.analyze` takes on large models, in time and memory, against one real forward pass.

    pip install ".[bench]"
    python benchmarks/large.py
    python benchmarks/large.py --models vit_h_14 --rounds 5 --json out.json

Needs archcost, torch, torchvision and tabulate, and about 6 GB of memory; each model is built once, in a
process of its own.

Time. `analyze` and one forward pass (no_grad, batch 1, torch's own number of threads) take turns as in
`analyze.py`, in CPU seconds of the process; both are called once before, untimed.

Memory. The first call of `analyze` in the process, before any forward pass: the high-water mark of its
resident memory less what was resident just before, the model included there. What that first call
imports or sets up is part of it. Before the call, freed heap is given back to the system (malloc_trim), so
that no earlier peak hides this one. On Linux the mark is VmHWM of /proc/self/status, reset through
/proc/self/clear_refs; elsewhere, or where that file cannot be written, a second thread samples the
resident memory with psutil every half millisecond. The table says which.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyze import Size, alone, build, describe_machine

# Name in torchvision.models -> input size, what its constructor needs, and the least ratio claimed.
MODELS: dict[str, tuple[Size, dict[str, Any], float]] = {
    "vit_h_14": ((1, 3, 518, 518), {"image_size": 518}, 20.0),
    "regnet_y_128gf": ((1, 3, 224, 224), {}, 10.0),
}
MOST_CPU_SECONDS = 1.0
MOST_MEGABYTES = 50.0


@dataclass
class Result:
    """`analyze` on one model, against its forward pass. Memory in bytes."""

    model: str
    params: int
    cpu_seconds: float
    spread: float
    first_cpu_seconds: float
    forward_cpu_seconds: float
    forward_wall_seconds: float
    ratio: float
    """CPU time of the forward pass as a multiple of analyze's, paired within rounds."""
    wall_ratio: float
    kept: str
    disturbed: bool
    first_peak: int
    later_peak: int
    method: str


def measure(name: str, rounds: int, threads: int | None) -> Result:
    """All numbers of one model; called in a process of its own."""
    import torch

    import archcost
    from archcost.latency.timing.clock import compare_calls, ratio

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    size, options, _ = MODELS[name]
    model = build(name, **options)
    image = torch.randn(size)
    times: list[float] = []

    def analyze() -> Any:
        analysis = archcost.analyze(model, input_size=size)
        return analysis.total, analysis.modules, analysis.operations, analysis.uncounted

    def timed() -> None:
        start = time.process_time()
        analyze()
        times.append(time.process_time() - start)

    def forward() -> Any:
        with torch.no_grad():
            return model(image)

    first_peak, method = peak_memory(timed)
    later_peak, _ = peak_memory(timed)
    timings = compare_calls(
        {"analyze": analyze, "forward": forward}, rounds=rounds, gc_enabled=True, switches_per_second=50.0
    )
    ours, theirs = timings["analyze"], timings["forward"]
    return Result(
        model=name,
        params=sum(parameter.numel() for parameter in model.parameters()),
        cpu_seconds=ours.median,
        spread=ours.spread,
        first_cpu_seconds=times[0],
        forward_cpu_seconds=theirs.median,
        forward_wall_seconds=theirs.wall_median,
        ratio=ratio(theirs, ours).median,
        wall_ratio=ratio(theirs, ours, wall=True).median,
        kept=f"{ours.kept}, {theirs.kept} / {ours.dropped}, {theirs.dropped}",
        disturbed=ours.disturbed or theirs.disturbed,
        first_peak=first_peak,
        later_peak=later_peak,
        method=method,
    )


def peak_memory(call: Callable[[], Any]) -> tuple[int, str]:
    """The most resident memory during a call beyond that before it, and how it was found."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before, "VmHWM"
    except OSError:
        return _sampled_peak(call), "psutil, sampled"


def _status(field: str) -> int:
    """One line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _sampled_peak(call: Callable[[], Any]) -> int:
    import psutil

    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.0005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak, process.memory_info().rss) - before


def table(results: list[Result]) -> str:
    from tabulate import tabulate

    headers = [
        "model",
        "params, M",
        "analyze, CPU s",
        "spread",
        "first call, CPU s",
        "forward, CPU s",
        "forward, wall s",
        "CPU, forward / analyze",
        "wall, forward / analyze",
        "kept / dropped",
        "peak memory, MB: first call",
        "later call",
        "by",
    ]
    lines = [
        [
            r.model,
            f"{r.params / 1e6:.1f}",
            f"{r.cpu_seconds:.3f}",
            f"{r.spread:.3f}",
            f"{r.first_cpu_seconds:.3f}",
            f"{r.forward_cpu_seconds:.2f}",
            f"{r.forward_wall_seconds:.2f}",
            f"{r.ratio:.1f}",
            f"{r.wall_ratio:.1f}",
            r.kept + (" DISTURBED" if r.disturbed else ""),
            f"{r.first_peak / 1e6:.1f}",
            f"{r.later_peak / 1e6:.1f}",
            r.method,
        ]
        for r in results
    ]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def claims(result: Result) -> list[str]:
    """One line for each claim about one model."""
    least = MODELS[result.model][2]
    cpu, peak = result.cpu_seconds, result.first_peak / 1e6
    return [
        f"{result.model}: under {MOST_CPU_SECONDS:g} s of CPU: {_yes(cpu < MOST_CPU_SECONDS)} ({cpu:.3f} s)",
        f"{result.model}: at least {least:g} times less CPU than one forward pass: "
        f"{_yes(result.ratio >= least)} ({result.ratio:.1f} times; {result.wall_ratio:.1f} in wall time)",
        f"{result.model}: under {MOST_MEGABYTES:g} MB beyond the model: "
        f"{_yes(peak < MOST_MEGABYTES)} ({peak:.1f} MB)",
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


def main() -> int:
    parser = argparse.ArgumentParser(description="archcost.analyze on large models: time and memory")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="torch threads; by default as many as torch takes")
    parser.add_argument("--json", type=Path, help="write every number there too")
    options = parser.parse_args()
    machine = describe_machine(options.threads)
    print(f"{machine}\n")
    results = []
    for name in options.models:
        print(f"building and timing {name} ...", file=sys.stderr)
        results.append(alone(measure, name, options.rounds, options.threads))
    print(table(results), "", *(line for result in results for line in claims(result)), sep="\n")
    if options.json is not None:
        content = {"machine": machine, "rounds": options.rounds, "rows": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
