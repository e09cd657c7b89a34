"""How fast the compiled kernels are, layer by layer, against the best of PyTorch's own ways.

    python benchmarks/paths.py [--threads 1 2] [--batch 1 8] [--seconds 2] [--only vgg depthwise]

All sides of a layer are interleaved in one run (`archcost.latency.clock.compare_calls`): PyTorch in NCHW, in
channels_last and with weights packed in advance; each kernel that applies, in both layouts. With one thread
the time is the thread's CPU time, with more it is wall time. A kernel counts where its error against float64,
relative to the largest output, is at most 1e-4. The table gives the fastest of each side; groups end with
their geometric mean, with and without native among the candidates.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import geometric_mean, median
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from archcost import kernels
from archcost.latency.clock import Timing, compare_calls

TOLERANCE = 1e-4
TILE_OUTPUTS = (2, 4, 6)
FFT_SIZES = (48, 64, 80, 96, 128, 160, 256)
# A candidate this much slower than the fastest in a first look is not timed further.
HOPELESS = 1.5


@dataclass(frozen=True)
class Layer:
    """A convolution of a known network, of stride 1."""

    group: str
    name: str
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    taps: tuple[int, int]
    padding: tuple[int, int]
    groups: int = 1

    def tensors(self, batch: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, self.in_channels, *self.size, generator=generator)
        fan_in = self.in_channels // self.groups * math.prod(self.taps)
        weight = torch.randn(
            self.out_channels, self.in_channels // self.groups, *self.taps, generator=generator
        )
        return x, weight / fan_in**0.5


def square(group: str, name: str, ins: int, side: int, outs: int, taps: int, groups: int = 1) -> Layer:
    return Layer(group, name, ins, outs, (side, side), (taps, taps), (taps // 2, taps // 2), groups)


def sequence(name: str, ins: int, length: int, outs: int, taps: int, padding: int) -> Layer:
    return Layer("conv1d, 31 to 512 taps", name, ins, outs, (1, length), (1, taps), (0, padding))


LAYERS = [
    square("VGG-16 3x3", "vgg1_2", 64, 224, 64, 3),
    square("VGG-16 3x3", "vgg2_1", 64, 112, 128, 3),
    square("VGG-16 3x3", "vgg2_2", 128, 112, 128, 3),
    square("VGG-16 3x3", "vgg3_1", 128, 56, 256, 3),
    square("VGG-16 3x3", "vgg3_2", 256, 56, 256, 3),
    square("VGG-16 3x3", "vgg4_1", 256, 28, 512, 3),
    square("VGG-16 3x3", "vgg4_2", 512, 28, 512, 3),
    square("VGG-16 3x3", "vgg5_x", 512, 14, 512, 3),
    square("ResNet-50 3x3", "r50_64@56", 64, 56, 64, 3),
    square("ResNet-50 3x3", "r50_128@28", 128, 28, 128, 3),
    square("ResNet-50 3x3", "r50_256@14", 256, 14, 256, 3),
    square("ResNet-50 3x3", "r50_512@7", 512, 7, 512, 3),
    square("dense 5x5", "alex2", 64, 27, 192, 5),
    square("dense 5x5", "goog3b", 32, 28, 96, 5),
    square("dense 5x5", "goog4", 32, 14, 128, 5),
    square("dense 5x5", "goog5b", 48, 7, 128, 5),
    square("dense 5x5", "incv3", 48, 35, 64, 5),
    Layer("1x7 and 7x1", "incv3_1x7", 128, 128, (17, 17), (1, 7), (0, 3)),
    Layer("1x7 and 7x1", "incv3_7x1", 192, 192, (17, 17), (7, 1), (3, 0)),
    square("depthwise 27 to 31", "replk31_128@56", 128, 56, 128, 31, 128),
    square("depthwise 27 to 31", "replk29_256@28", 256, 28, 256, 29, 256),
    square("depthwise 27 to 31", "replk27_512@14", 512, 14, 512, 27, 512),
    sequence("tcn_k31", 128, 1000, 128, 31, 15),
    sequence("crepe2_k64", 1024, 128, 128, 64, 32),
]


def native(layer: Layer, x: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    """PyTorch's own ways; which of them is fastest differs from layer to layer."""
    last_x, last_weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    rest = (1, layer.padding, 1, layer.groups)
    ways: dict[str, Callable[[], Tensor]] = {
        "native NCHW": partial(F.conv2d, x, weight, None, *rest),
        "native channels_last": partial(F.conv2d, last_x, last_weight, None, *rest),
    }
    if torch.backends.mkldnn.is_available():
        sizes = (list(layer.padding), [1, 1], [1, 1], layer.groups)
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, list(x.shape))
        pointwise = torch.ops.mkldnn._convolution_pointwise
        ways["native packed"] = partial(pointwise, last_x, packed, None, *sizes, "none", [], "")
    return ways


def compiled(layer: Layer, x: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every kernel that can do the layer, in both layouts."""
    inputs = {"NCHW": x, "channels_last": x.contiguous(memory_format=torch.channels_last)}
    found: dict[str, Callable[..., Tensor]] = {}
    if layer.groups > 1:
        packed = kernels.pack_depthwise(weight, x.shape[3], padding=layer.padding)
        found[f"depthwise FFT-{packed.size}"] = partial(kernels.depthwise, packed=packed)
    for tile in kernels.winograd_tiles(layer.taps) if layer.groups == 1 else ():
        if max(tile.outputs) in TILE_OUTPUTS:
            found[str(tile)] = partial(kernels.winograd, packed=kernels.pack_winograd(weight, tile.outputs))
    if layer.taps[0] == 1 and layer.taps[1] > 7:
        for size in FFT_SIZES:
            if size >= 1.2 * layer.taps[1]:
                found[f"FFT-{size}"] = partial(kernels.fourier, packed=kernels.pack_fourier(weight, size))
    return {
        f"{name} {layout}": partial(call, given, padding=layer.padding)
        for name, call in found.items()
        for layout, given in inputs.items()
    }


def error(y: Tensor, expected: Tensor) -> float:
    return ((y[:1].double() - expected).abs().max() / expected.abs().max()).item()


def samples(timing: Timing) -> tuple[float, ...]:
    """Other programs on the machine lengthen wall time; but with several threads it is what counts."""
    return timing.cpu_seconds if torch.get_num_threads() == 1 else timing.wall_seconds


def time_of(timing: Timing) -> float:
    return median(samples(timing))


def best(timings: dict[str, Timing], names: dict[str, Callable[[], Tensor]]) -> Timing:
    return min((timings[name] for name in names), key=time_of)


def measure(layer: Layer, batch: int, seconds: float) -> tuple[Timing, Timing, float]:
    """The fastest native way, the fastest kernel within tolerance, and its error."""
    x, weight = layer.tensors(batch)
    expected = F.conv2d(x[:1].double(), weight.double(), None, 1, layer.padding, 1, layer.groups)
    ours = compiled(layer, x, weight)
    errors = {name: error(call(), expected) for name, call in ours.items()}
    ours = {name: call for name, call in ours.items() if errors[name] <= TOLERANCE}
    theirs = native(layer, x, weight)
    clock: Literal["thread", "process"] = "thread" if torch.get_num_threads() == 1 else "process"
    everything = {**theirs, **ours}
    look = {
        name: time_of(timing) for name, timing in compare_calls(everything, rounds=3, cpu_clock=clock).items()
    }
    for side in (theirs, ours):
        fastest = min(look[name] for name in side)
        for name in [name for name in side if look[name] > HOPELESS * fastest]:
            del side[name], everything[name]
    timings = compare_calls(everything, rounds=31, seconds=seconds, cpu_clock=clock)
    kernel = best(timings, ours)
    return best(timings, theirs), kernel, errors[kernel.name]


def keep_blocks() -> None:
    """Large blocks stay with the process, for both sides: else page faults are timed as compute (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            ctypes.CDLL(None).mallopt(option, value)


def row(timing: Timing) -> str:
    ordered = sorted(samples(timing))
    spread = ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]
    kept = f"{timing.kept}/{timing.kept + timing.dropped}{' DISTURBED' if timing.disturbed else ''}"
    return f"{time_of(timing) * 1e3:9.3f} {spread * 1e3:7.3f} {kept:>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names of groups or layers")
    chosen = parser.parse_args()
    layers = [it for it in LAYERS if any(part in f"{it.group} {it.name}" for part in chosen.only)]
    keep_blocks()
    print(f"PyTorch {torch.__version__}, kernels {kernels.isa()}, {platform.machine()}; ms: median, spread")
    with torch.inference_mode():
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            for batch in chosen.batch:
                print(f"\n{threads} thread(s), batch {batch}")
                table(layers, batch, chosen.seconds)


def table(layers: list[Layer], batch: int, seconds: float) -> None:
    ratios: dict[str, list[float]] = {}
    for layer in layers:
        theirs, ours, wrong = measure(layer, batch, seconds)
        faster = time_of(theirs) / time_of(ours)
        ratios.setdefault(layer.group, []).append(faster)
        print(
            f"{layer.name:16} {theirs.name:21}{row(theirs)}   {ours.name:27}{row(ours)}  error {wrong:.0e}"
            f" {faster:6.2f}x",
            flush=True,
        )
    for group, found in [*ratios.items(), ("all of them", [one for each in ratios.values() for one in each])]:
        with_native = geometric_mean([max(1.0, one) for one in found])
        print(
            f"{group:28} {geometric_mean(found):5.2f}x, with native among them {with_native:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
