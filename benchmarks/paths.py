"""How fast the execution paths are, layer by layer, against the best of PyTorch's own ways.

    python benchmarks/paths.py [--threads 1 2] [--batch 1 8] [--seconds 2] [--only vgg depthwise]

All sides of a layer are interleaved in one run (`archcost.latency.timing.clock`), inputs in NCHW and in
channels_last: PyTorch's own paths (`native` and its variants), and those that run compiled kernels, or with
--every-path all that there are; these in blocked layout as well, in which a network's layers hand each other
their tensors, so that conversions are not counted (--plain leaves it out). A path counts where its error
against float64, relative to the largest output, is at most 1e-4. The table has the fastest of each side and,
behind "of", the limit: how much faster than the best native the fewest multiplications of the paths that
count would be at this processor's measured peak in registers, with input, output and weights moved once at
its measured bandwidth of memory; transforms are not in it. Behind that stands the share of the limit that is
reached. Groups end with geometric means, without and with native among the candidates.

With one thread the time is the thread's CPU time, with more it is wall time; interrupted samples are dropped
and counted. A sample takes at least 10 ms, so that weights and input are in the cache where they fit; but
the inputs of large depthwise kernels are rotated beyond it.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from statistics import geometric_mean, median

import torch
from path_layers import LARGE, LAYERS, Layer
from torch import Tensor

from archcost import ConvSpec, kernels
from archcost.kernels.blocked import from_blocks, to_blocks
from archcost.latency.prediction.roofline import Roofline, bytes_moved, measure_roofline
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.paths import ExecutionPath, available, eligible, get
from archcost.paths.accuracy import error_against, exact_convolution

# A candidate this much slower than the fastest of its side in a first look is not timed further.
HOPELESS = 1.5
TOLERANCE = 1e-4
BLOCK = 0.01
ROTATED_BYTES = 1 << 28
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    layer: Layer
    theirs: Timing
    ours: Timing
    error: float
    limit: float
    """Seconds."""
    im2col: Timing | None

    @property
    def faster(self) -> float:
        return time_of(self.theirs) / time_of(self.ours)

    @property
    def most(self) -> float:
        return time_of(self.theirs) / self.limit

    def __str__(self) -> str:
        return (
            f"{self.layer.name:18} {self.theirs.name:30}{numbers(self.theirs)}   {self.ours.name:24}"
            f"{numbers(self.ours)}  error {self.error:.0e} {self.faster:6.2f}x of {self.most:5.2f}x "
            f"{self.faster / self.most:4.0%}"
        )


def candidates(
    layer: Layer, batch: int, every_path: bool, blocked: bool
) -> tuple[dict[str, Call], dict[str, Call], dict[str, float]]:
    """PyTorch's ways, archcost's, and the errors of those that count, by the names of the paths."""
    x, weight = layer.tensors(batch)
    spec = replace(layer.spec, batch=batch)
    able = [path for path in map(get, available()) if path.supports(spec, x.dtype) is None]
    tensors = [path for path in able if path.implementation(spec) == "tensor operations" and not every_path]
    ways = [path for path in able if path not in tensors]
    rotated = layer.group == LARGE
    found = eligible(spec, weight, x=x, paths=ways, tolerance=TOLERANCE)
    errors = {name: one.error for name, one in found.items() if one.eligible and one.error is not None}
    inputs = {name: laid_out(x, layout, rotated) for name, layout in LAYOUTS.items()}
    theirs: dict[str, Call] = {}
    ours: dict[str, Call] = {}
    for path in ways:
        if path.name not in errors:
            continue
        prepared = path.prepare(weight, None, spec)
        side = theirs if path.implementation(spec) == "PyTorch" else ours
        for name, given in inputs.items():
            side[f"{path.name} {name}"] = caller(lambda x, run=path.run, ready=prepared: run(x, ready), given)
    if blocked:
        calls, exact = on_blocks(able, x, weight, spec)
        ours |= {
            f"{name} blocked": caller(call, copies(given, rotated)) for name, (call, given) in calls.items()
        }
        errors |= exact
    return theirs, ours, errors


def on_blocks(
    ways: list[ExecutionPath], x: Tensor, weight: Tensor, spec: ConvSpec
) -> tuple[dict[str, tuple[Callable[[Tensor], Tensor], Tensor]], dict[str, float]]:
    """The paths with kernels for blocked tensors, each with its input, and their errors."""
    exact = exact_convolution(x, weight, spec, None)
    calls, errors = {}, {}
    for path in ways:
        call = path.on_blocks(path.prepare(weight, None, spec)) if path.reads_blocks(spec) else None
        if call is None:
            continue
        given = x if call.plain_input else to_blocks(x)
        y = from_blocks(call(given), spec.out_channels).view_as(exact)
        if (error := error_against(y, exact)) <= TOLERANCE:
            calls[path.name], errors[path.name] = (call, given), error
    return calls, errors


def laid_out(x: Tensor, layout: torch.memory_format, rotated: bool) -> list[Tensor]:
    """The input in a layout, or as many copies of it as no cache holds. A sequence is an image of one row."""
    if x.dim() == 3:
        x = x.unsqueeze(2).contiguous(memory_format=layout).squeeze(2)
    else:
        x = x.contiguous(memory_format=layout)
    return copies(x, rotated)


def copies(x: Tensor, rotated: bool) -> list[Tensor]:
    count = math.ceil(ROTATED_BYTES / (4 * x.numel())) if rotated else 1
    return [x, *(x.clone(memory_format=torch.preserve_format) for _ in range(count - 1))]


def caller(run: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Call:
    turns = cycle(inputs)
    return lambda: run(next(turns))


def samples(timing: Timing) -> tuple[float, ...]:
    """Other programs on the machine lengthen wall time; but with several threads it is what counts."""
    return timing.cpu_seconds if torch.get_num_threads() == 1 else timing.wall_seconds


def time_of(timing: Timing) -> float:
    return median(samples(timing))


def best(timings: dict[str, Timing], names: dict[str, Call]) -> Timing:
    return min((timings[name] for name in names), key=time_of)


def measure(layer: Layer, batch: int, chosen: argparse.Namespace, machine: Roofline) -> Row | None:
    """None where archcost has no path of its own for the layer."""
    theirs, ours, errors = candidates(layer, batch, chosen.every_path, not chosen.plain)
    if not ours:
        return None
    clock = "thread" if torch.get_num_threads() == 1 else "process"
    look = compare_calls({**theirs, **ours}, rounds=3, block=1e-4, cpu_clock=clock)
    tiled = {name: call for name, call in ours.items() if name.startswith("im2col-tiled")}
    kept = {}
    for side in (theirs, ours, tiled):
        fastest = min((time_of(look[name]) for name in side), default=0.0)
        kept |= {name: call for name, call in side.items() if time_of(look[name]) <= HOPELESS * fastest}
    timings = compare_calls(kept, rounds=31, seconds=chosen.seconds, block=BLOCK, cpu_clock=clock)
    kernel = best(timings, {name: call for name, call in ours.items() if name in kept})
    if chosen.all:
        for name in sorted(kept, key=lambda name: time_of(timings[name])):
            print(f"    {name:30}{numbers(timings[name])}")
    return Row(
        layer,
        best(timings, {name: call for name, call in theirs.items() if name in kept}),
        kernel,
        errors[kernel.name.split()[0]],
        limit(layer, batch, errors, machine),
        best(timings, {name: call for name, call in tiled.items() if name in kept}) if tiled else None,
    )


def limit(layer: Layer, batch: int, errors: dict[str, float], machine: Roofline) -> float:
    """Seconds."""
    spec = replace(layer.spec, batch=batch)
    fewest = min(get(name).multiplications(spec) for name in errors)
    return fewest / machine.macs_per_second + bytes_moved(spec) / machine.bytes_per_second


def numbers(timing: Timing) -> str:
    ordered = sorted(samples(timing))
    spread = ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]
    kept = f"{timing.kept}/{timing.kept + timing.dropped}{' DISTURBED' if timing.disturbed else ''}"
    return f"{time_of(timing) * 1e3:9.3f} {spread * 1e3:7.3f} {kept:>7}"


def keep_blocks() -> None:
    """Large blocks stay with the process, for both sides: else page faults are timed as compute (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            ctypes.CDLL(None).mallopt(option, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names of groups or layers")
    parser.add_argument("--every-path", action="store_true", help="tensor operations as well")
    parser.add_argument("--plain", action="store_true", help="no tensors in blocked layout")
    parser.add_argument("--all", action="store_true", help="print every way that was timed")
    chosen = parser.parse_args()
    layers = [it for it in LAYERS if any(part in f"{it.group} {it.name}" for part in chosen.only)]
    keep_blocks()
    print(f"PyTorch {torch.__version__}, kernels {kernels.isa()}, {platform.machine()}")
    print("ms: median, spread, samples kept")
    with torch.inference_mode():
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            machine = measure_roofline(threads=threads)
            for batch in chosen.batch:
                print(f"\n{threads} thread(s), batch {batch}; {machine}")
                table(layers, batch, chosen, machine)


def table(layers: list[Layer], batch: int, chosen: argparse.Namespace, machine: Roofline) -> None:
    rows: list[Row] = []
    for layer in layers:
        row = measure(layer, batch, chosen, machine)
        print(row or f"{layer.name:18} no path but PyTorch's", flush=True)
        if row:
            rows.append(row)
    groups = {
        group: [row for row in rows if row.layer.group == group]
        for group in dict.fromkeys(r.layer.group for r in rows)
    }
    for group, found in [*groups.items(), ("all of them", rows)]:
        faster = geometric_mean(row.faster for row in found)
        with_native = geometric_mean(max(1.0, row.faster) for row in found)
        most = geometric_mean(row.most for row in found)
        print(
            f"{group:26} {faster:5.2f}x of {most:5.2f}x, {faster / most:4.0%}; "
            f"with native among them {with_native:5.2f}x"
        )
    tiled = [
        time_of(row.theirs) / time_of(row.im2col) for row in rows if row.im2col and row.layer.spec.groups == 1
    ]
    if tiled:
        print(
            f"{'tiled im2col, dense':26} {geometric_mean(tiled):5.2f}x, at least {min(tiled):.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
