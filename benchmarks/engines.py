"""Whole networks on a CPU: archcost against the engines that a user would pick instead, in turns in one run.

    python benchmarks/engines.py [--models vgg16 resnet18 ...] [--sides eager compiled archcost ...]
                                 [--batch 1 8] [--threads 1 2] [--rounds 15] [--seconds S]
                                 [--json FILE] [--with FILE]

Sides: *eager* and *channels_last* (PyTorch as it is, in both layouts; the table has the faster), *compiled*
(`torch.compile` with freezing, in channels_last), *onnxruntime* and *openvino* (float32, from the file that
`torch.onnx.export` writes), and *archcost*. Needs `pip install 'archcost[bench]'`.

Milliseconds are the median with the interquartile range in brackets: CPU time of the thread, on a single
core, with one thread, wall time with more. Samples in which the thread lost the processor are dropped. A
ratio is the time of the fastest other side over archcost's: below 1 archcost loses. Errors are against the
network in float64, relative to its largest output. Ready: seconds from the network in PyTorch to the end of
the first call, exporting included and nothing cached. The process keeps freed memory, and denormals are 0, on
all sides.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from time import perf_counter
from typing import Any, TypeAlias

import torch
from networks import NETWORKS, built, noise
from tabulate import tabulate
from torch import Tensor, nn

import archcost
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.timing.clock import compare_calls
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.settings import settings
from archcost.latency.timing.thresholds import BLOCK_S

OURS = "archcost"
# Interrupted samples are taken again; a network whose sides still lack good ones by then says so.
_PATIENCE_S = 60.0
Call: TypeAlias = Callable[[], Any]
"""A forward pass; gives the output as a tensor, or as what `torch.as_tensor` takes."""


@dataclass(frozen=True)
class Asked:
    """What every side is made from."""

    model: nn.Module
    x: Tensor
    threads: int
    folder: Path
    """For files, and for what a side caches."""
    seconds: float | None
    """That archcost may measure; None leaves it to archcost."""


@dataclass(frozen=True)
class Time:
    """A row of the JSON: a network on a side."""

    model: str
    batch: int
    threads: int
    side: str
    ms: float
    """CPU time of the thread with one thread, wall time with more."""
    spread_ms: float
    kept: int
    dropped: int
    disturbed: bool
    """Whether too few samples were free of interruptions, so that all of them count."""
    error: float
    ready_s: float

    @property
    def case(self) -> tuple[str, int, int]:
        return self.model, self.batch, self.threads


def eager(asked: Asked) -> Call:
    return lambda: asked.model(asked.x)


def channels_last(asked: Asked) -> Call:
    model, x = in_channels_last(asked)
    return lambda: model(x)


def compiled(asked: Asked) -> Call:
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    inductor.freezing = inductor.force_disable_caches = True
    model, x = in_channels_last(asked)
    frozen = torch.compile(model, dynamic=False)
    return lambda: frozen(x)


def in_channels_last(asked: Asked) -> tuple[nn.Module, Tensor]:
    layout: Any = torch.channels_last
    return copy.deepcopy(asked.model).to(memory_format=layout), asked.x.contiguous(memory_format=layout)


def onnxruntime(asked: Asked) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = asked.threads, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Or its threads would keep the processors while the next side runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    path = exported(asked)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: asked.x.numpy()}
    return lambda: session.run(None, given)[0]


def openvino(asked: Asked) -> Call:
    import openvino

    # Without the first it computes in bfloat16 where the processor can; the last would pin PyTorch's thread.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": asked.threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(exported(asked), "CPU", options).create_infer_request()
    given = [asked.x.numpy()]
    return lambda: request.infer(given, share_inputs=True)[0]


def exported(asked: Asked) -> str:
    """The path of the network as an ONNX file."""
    path = asked.folder / "network.onnx"
    program = torch.onnx.export(asked.model, (asked.x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    return str(path)


def ours(asked: Asked) -> Call:
    options = {} if asked.seconds is None else {"seconds": asked.seconds}
    fast = archcost.accelerate(asked.model, asked.x, store=asked.folder / "store", progress=False, **options)
    return lambda: fast(asked.x)


SIDES: dict[str, Callable[[Asked], Call]] = {
    "eager": eager,
    "channels_last": channels_last,
    "compiled": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    OURS: ours,
}
EAGER = ("eager", "channels_last")


@cache
def network(name: str) -> nn.Module:
    return built(name)


def times(name: str, batch: int, threads: int, chosen: argparse.Namespace) -> Iterator[Time]:
    """Every side of a network, timed in turns."""
    model, x = network(name), noise(name, batch)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
    cores = sorted(os.sched_getaffinity(0))[:threads]
    calls, ready, errors = {}, {}, {}
    with (
        tempfile.TemporaryDirectory(prefix="archcost-engines-") as folder,
        settings(threads=threads, cores=cores, keep_blocks=True),
        torch.no_grad(),
    ):
        asked = Asked(model, x, threads, Path(folder), chosen.seconds)
        for side in chosen.sides:
            start = perf_counter()
            calls[side] = SIDES[side](asked)
            y = torch.as_tensor(calls[side]())
            ready[side] = perf_counter() - start
            errors[side] = ((y.double() - exact).abs().max() / exact.abs().max()).item()
        # Long samples with several threads: those of the side before may still wait on their processors.
        block, clock = (BLOCK_S, "thread") if threads == 1 else (0.1, "process")
        timings = compare_calls(
            calls,
            rounds=chosen.rounds,
            warmup=2,
            block=block,
            cpu_clock=clock,
            deadline=Deadline(_PATIENCE_S),
        )
    for side, timing in timings.items():
        one = timing.by("cpu" if threads == 1 else "wall")
        numbers = (1e3 * one.median_s, 1e3 * one.spread_s, one.samples, one.dropped, one.disturbed)
        yield Time(name, batch, threads, side, *numbers, errors[side], ready[side])


def table(found: Sequence[Time], title: str) -> list[str]:
    """Markdown: a row a network, the geometric mean of the ratios last."""
    by_network: dict[str, dict[str, Time]] = {}
    for one in found:
        by_network.setdefault(one.model, {})[one.side] = one
    columns = [side for side in SIDES if side in {one.side for one in found} and side != EAGER[1]]
    heads = ["network", *columns, "fastest other", "ratio"]
    rows: list[list[str]] = []
    ratios: list[float] = []
    for name, sides in by_network.items():
        row = faster_eager(sides)
        others = [one for side, one in row.items() if side != OURS]
        best = min(others, key=lambda one: one.ms, default=None)
        ratio = best.ms / row[OURS].ms if best and OURS in row else None
        ratios += [ratio] if ratio else []
        cells = (milliseconds(row.get(side)) for side in columns)
        rows.append([name, *cells, best.side if best else "", f"{ratio:.2f}" if ratio else ""])
    if ratios:
        mean = f"{geometric_mean(ratios):.2f}"
        rows.append([f"geometric mean of {len(ratios)}", *[""] * (len(columns) + 1), mean])
    return [f"### {title}", "", tabulate(rows, heads, "pipe", disable_numparse=True), "", *remarks(found)]


def faster_eager(sides: Mapping[str, Time]) -> dict[str, Time]:
    """The sides, with the faster of PyTorch's two layouts as *eager*."""
    both = [sides[side] for side in EAGER if side in sides]
    rest = {side: one for side, one in sides.items() if side not in EAGER}
    return {"eager": min(both, key=lambda one: one.ms), **rest} if both else rest


def milliseconds(one: Time | None) -> str:
    return "" if one is None else f"{one.ms:.2f} ({one.spread_ms:.2f})" + "!" * one.disturbed


def remarks(found: Sequence[Time]) -> list[str]:
    """By side: the longest time to ready, and the largest error."""
    lines = []
    for side in dict.fromkeys(one.side for one in found):
        of_side = [one for one in found if one.side == side]
        slowest = max(of_side, key=lambda one: one.ready_s)
        worst = max(of_side, key=lambda one: one.error)
        middle = geometric_mean([one.ready_s for one in of_side])
        ready = f"ready in {middle:.1f} s on average, {slowest.ready_s:.1f} s at most ({slowest.model})"
        lines.append(f"- {side}: {ready}; error {worst.error:.0e} at most ({worst.model})")
    return lines + ["- !: other processes interrupted most samples"] * any(one.disturbed for one in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), help="of torchvision, or replk")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, help="that archcost may measure; by default its own choice")
    parser.add_argument("--json", type=Path, help="write every time there")
    parser.add_argument("--with", type=Path, dest="earlier", help="add the other sides of an earlier --json")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    packages = {name: version(name) for name in ("torch", "onnxruntime", "openvino", "archcost")}
    found: dict[Any, Time] = {}
    if chosen.earlier:
        rows = [Time(**row) for row in json.loads(chosen.earlier.read_text())["times"]]
        found = {(one.case, one.side): one for one in rows}
    print(fingerprint(), ", ".join(f"{name} {number}" for name, number in packages.items()), sep="\n")
    for threads, batch in product(chosen.threads, chosen.batch):
        for name in chosen.models:
            for one in times(name, batch, threads, chosen):
                found[one.case, one.side] = one
            if chosen.json:
                rows = [asdict(one) for one in found.values()]
                text = json.dumps({"machine": str(fingerprint()), **packages, "times": rows}, indent=1)
                chosen.json.write_text(text)
        title = f"Batch {batch}, {threads} thread{'s' * (threads != 1)}, milliseconds"
        shown = [one for (case, _), one in found.items() if case[1:] == (batch, threads)]
        print("", *table(shown, title), sep="\n", flush=True)


if __name__ == "__main__":
    main()
