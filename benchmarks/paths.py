"""How fast the execution paths are, layer by layer, against the best of PyTorch's own ways.

    python benchmarks/paths.py [--threads 1 2] [--batch 1 8] [--seconds 2] [--only vgg depthwise]

All sides of a layer are interleaved in one run (`archcost.latency.timing.clock`), inputs in NCHW and
in channels_last: PyTorch's own paths (`native` and its variants), and those that run compiled kernels, or
with --every-path all that there are. A path counts where its error against float64, relative to the largest
output, is at most 1e-4. The table has the fastest of each side and behind "of", how much faster than the
best native the fewest multiplications would be at this processor's measured peak, with input, output and
weights moved once at its measured bandwidth. Groups end with geometric means, without and with native among
the candidates.

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

from archcost import kernels
from archcost.latency.timing.clock import Timing, compare_calls
from archcost.paths import available, eligible, get

# A candidate this much slower than the fastest of its side in a first look is not timed further.
HOPELESS = 1.5
BLOCK = 0.01
ROTATED_BYTES = 1 << 28
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Machine:
    """With the number of threads set now."""

    multiplications: float
    """A second, each with its addition."""
    bytes: float
    """Moved a second, well beyond the caches."""

    def __str__(self) -> str:
        return f"peak {2e-9 * self.multiplications:.0f} GFLOP/s, {1e-9 * self.bytes:.0f} GB/s"

    @classmethod
    def measured(cls) -> Machine:
        a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
        source, target = torch.randn(1 << 26), torch.empty(1 << 26)
        found = compare_calls({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, rounds=7)
        best = {name: min(samples(timing)) for name, timing in found.items()}
        return cls(1536**3 / best["product"], 2 * 4 * source.numel() / best["copy"])


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

    def __str__(self) -> str:
        limit = time_of(self.theirs) / self.limit
        return (
            f"{self.layer.name:18} {self.theirs.name:30}{numbers(self.theirs)}   {self.ours.name:24}"
            f"{numbers(self.ours)}  error {self.error:.0e} {self.faster:6.2f}x of {limit:5.2f}x"
        )


def candidates(
    layer: Layer, batch: int, every_path: bool
) -> tuple[dict[str, Call], dict[str, Call], dict[str, float]]:
    """PyTorch's ways, archcost's, and the errors of the paths."""
    x, weight = layer.tensors(batch)
    spec = replace(layer.spec, batch=batch)
    ways = [path for path in map(get, available()) if path.supports(spec, x.dtype) is None]
    if not every_path:
        ways = [path for path in ways if path.implementation(spec) != "tensor operations"]
    found = eligible(spec, weight, x=x, paths=ways)
    inputs = {name: laid_out(x, layout, layer.group == LARGE) for name, layout in LAYOUTS.items()}
    theirs: dict[str, Call] = {}
    ours: dict[str, Call] = {}
    for path in ways:
        if not found[path.name].eligible:
            continue
        prepared = path.prepare(weight, None, spec)
        side = theirs if path.implementation(spec) == "PyTorch" else ours
        for name, given in inputs.items():
            side[f"{path.name} {name}"] = caller(path.run, given, prepared)
    return theirs, ours, {name: one.error for name, one in found.items() if one.error is not None}


def laid_out(x: Tensor, layout: torch.memory_format, rotated: bool) -> list[Tensor]:
    """The input in a layout, or as many copies of it as no cache holds. A sequence is an image of one row."""
    if x.dim() == 3:
        x = x.unsqueeze(2).contiguous(memory_format=layout).squeeze(2)
    else:
        x = x.contiguous(memory_format=layout)
    copies = math.ceil(ROTATED_BYTES / (4 * x.numel())) if rotated else 1
    return [x, *(x.clone(memory_format=torch.preserve_format) for _ in range(copies - 1))]


def caller(run: Callable[..., Tensor], inputs: list[Tensor], prepared: object) -> Call:
    turns = cycle(inputs)
    return lambda: run(next(turns), prepared)


def samples(timing: Timing) -> tuple[float, ...]:
    """Other programs on the machine lengthen wall time; but with several threads it is what counts."""
    return timing.cpu_seconds if torch.get_num_threads() == 1 else timing.wall_seconds


def time_of(timing: Timing) -> float:
    return median(samples(timing))


def best(timings: dict[str, Timing], names: dict[str, Call]) -> Timing:
    return min((timings[name] for name in names), key=time_of)


def measure(layer: Layer, batch: int, seconds: float, every_path: bool, machine: Machine) -> Row | None:
    """None where archcost has no path of its own for the layer."""
    theirs, ours, errors = candidates(layer, batch, every_path)
    if not ours:
        return None
    clock = "thread" if torch.get_num_threads() == 1 else "process"
    look = compare_calls({**theirs, **ours}, rounds=3, block=1e-4, cpu_clock=clock)
    tiled = {name: call for name, call in ours.items() if name.startswith("im2col-tiled")}
    kept = {}
    for side in (theirs, ours, tiled):
        fastest = min((time_of(look[name]) for name in side), default=0.0)
        kept |= {name: call for name, call in side.items() if time_of(look[name]) <= HOPELESS * fastest}
    timings = compare_calls(kept, rounds=31, seconds=seconds, block=BLOCK, cpu_clock=clock)
    kernel = best(timings, {name: call for name, call in ours.items() if name in kept})
    return Row(
        layer,
        best(timings, {name: call for name, call in theirs.items() if name in kept}),
        kernel,
        errors[kernel.name.split()[0]],
        limit(layer, batch, errors, machine),
        best(timings, {name: call for name, call in tiled.items() if name in kept}) if tiled else None,
    )


def limit(layer: Layer, batch: int, errors: dict[str, float], machine: Machine) -> float:
    spec = replace(layer.spec, batch=batch)
    fewest = min(get(name).multiplications(spec) for name in errors)
    x, weight = layer.tensors(batch)
    moved = 4 * (x.numel() + weight.numel() + spec.neurons)
    return fewest / machine.multiplications + moved / machine.bytes


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
    chosen = parser.parse_args()
    layers = [it for it in LAYERS if any(part in f"{it.group} {it.name}" for part in chosen.only)]
    keep_blocks()
    print(f"PyTorch {torch.__version__}, kernels {kernels.isa()}, {platform.machine()}")
    print("ms: median, spread, samples kept")
    with torch.inference_mode():
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            machine = Machine.measured()
            for batch in chosen.batch:
                print(f"\n{threads} thread(s), batch {batch}; {machine}")
                table(layers, batch, chosen.seconds, chosen.every_path, machine)


def table(layers: list[Layer], batch: int, seconds: float, every_path: bool, machine: Machine) -> None:
    rows: list[Row] = []
    for layer in layers:
        row = measure(layer, batch, seconds, every_path, machine)
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
        print(f"{group:26} {faster:5.2f}x, with native among them {with_native:5.2f}x")
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
