"""How fast the engine's kernels for blocked tensors are, layer by layer, against ONNX Runtime.

    taskset -c 0 python benchmarks/layers.py [--seconds 2] [--only pointwise stem]

Each case is a chain of layers, as in a network: archcost's steps one after the other, and the same chain as a
model of ONNX Runtime, on one thread. The sides take turns in random order; the time is the thread's CPU time.
Printed are G multiply-adds a second, the best and the median of each side, how much faster archcost is by
the medians, and the largest difference relative to the largest output.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from statistics import geometric_mean, median

import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from archcost import kernels
from archcost.kernels.loading import Images
from archcost.kernels.steps import (
    ActivationArguments,
    DirectArguments,
    InvertedResidualArguments,
    WindowArguments,
)

RELU, RELU6, NONE = (0.0, inf), (0.0, 6.0), None
LIBRARY = kernels.library()
LANES = LIBRARY.archcost_lanes()
ONNX_VERSIONS = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8}


@dataclass
class Conv:
    """Padded so that stride 1 keeps the size."""

    ins: int
    outs: int
    taps: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    limits: tuple[float, float] | None = RELU

    @cached_property
    def weight(self) -> Tensor:
        shape = (self.outs, self.ins // self.groups, *self.taps)
        return torch.randn(shape) * (2 / prod(shape[1:])) ** 0.5

    @cached_property
    def bias(self) -> Tensor:
        return torch.randn(self.outs) / 10

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (
            (s + 2 * (k // 2) - k) // self.stride + 1 for s, k in zip(size, self.taps, strict=True)
        )
        return height, width

    def macs(self, size: tuple[int, int]) -> int:
        return self.weight.numel() * prod(self.size(size))

    def step(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Callable[[], object]]:
        """Where the output will be, and what computes it."""
        blocked = x.dim() == 5
        window = (*self.taps, self.stride, self.stride, 1, 1)
        output = blocked_tensor(self.outs, self.size(size))
        arguments = DirectArguments(
            images_of(x, self.ins),
            images_of(output, self.outs),
            Images(),
            WindowArguments(*window),
            *(self.taps[0] // 2, self.taps[1] // 2, 0),
            limited(self.limits),
            *(-inf, inf),
        )
        places = [x, packed(self.weight, window, blocked), whole_blocks(self.bias), output, *[None] * 5]
        return output, call("direct", arguments, places)

    def nodes(self, name: str, x: str, model: Model) -> str:
        pads = [k // 2 for k in self.taps] * 2
        weights = [model.constant(f"{name}.weight", self.weight), model.constant(f"{name}.bias", self.bias)]
        attributes = {"kernel_shape": self.taps, "strides": [self.stride] * 2, "pads": pads}
        y = model.node("Conv", [x, *weights], name, **attributes, group=self.groups)
        if self.limits is RELU:
            return model.node("Relu", [y], f"{name}.limited")
        if self.limits is None:
            return y
        limits = [model.constant(f"{name}.{i}", torch.tensor(v)) for i, v in enumerate(self.limits)]
        return model.node("Clip", [y, *limits], f"{name}.limited")


@dataclass
class Inverted:
    """Without expansion where `ins` is `channels`; without projection where `outs` is 0."""

    ins: int
    channels: int
    outs: int
    taps: int = 3
    stride: int = 1

    @cached_property
    def layers(self) -> list[Conv]:
        return [
            *([Conv(self.ins, self.channels, limits=RELU6)] if self.ins != self.channels else []),
            Conv(self.channels, self.channels, (self.taps,) * 2, self.stride, self.channels, RELU6),
            *([Conv(self.channels, self.outs, limits=NONE)] if self.outs else []),
        ]

    @property
    def adds(self) -> bool:
        return self.ins == self.outs and self.stride == 1 and self.ins != self.channels

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        for layer in self.layers:
            size = layer.size(size)
        return size

    def macs(self, size: tuple[int, int]) -> int:
        found = 0
        for layer in self.layers:
            found, size = found + layer.macs(size), layer.size(size)
        return found

    def step(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Callable[[], object]]:
        outs = self.outs or self.channels
        output = blocked_tensor(outs, self.size(size))
        sums = torch.zeros(-(-self.channels // LANES) * LANES)
        six, none = limited(RELU6), limited(NONE)
        images = (images_of(x, self.ins), images_of(output, outs), images_of(output, outs))
        numbers = (self.channels, self.taps, self.stride, self.taps // 2, self.taps // 2, sums.numel())
        arguments = InvertedResidualArguments(*images, *numbers, six, six, none)
        places: list[Tensor | None] = [x, None, None, None, None, None, None]
        for layer in self.layers:
            at = 3 if layer.groups > 1 else 1 if layer is self.layers[0] else 5
            pack = packed_depthwise if layer.groups > 1 else packed_pointwise
            places[at : at + 2] = pack(layer.weight), whole_blocks(layer.bias)
        places += [output, x if self.adds else None, None if self.outs else sums]
        return output, call("inverted_residual", arguments, places)

    def nodes(self, name: str, x: str, model: Model) -> str:
        y = x
        for i, layer in enumerate(self.layers):
            y = layer.nodes(f"{name}.{i}", y, model)
        return model.node("Add", [y, x], f"{name}.sum") if self.adds else y


class Model:
    """A model of ONNX Runtime on the way."""

    def __init__(self) -> None:
        self.constants: list[TensorProto] = []
        self.steps: list[object] = []

    def constant(self, name: str, value: Tensor) -> str:
        self.constants.append(numpy_helper.from_array(value.numpy(), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.steps.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def session(self, shape: tuple[int, ...], result: str) -> onnxruntime.InferenceSession:
        taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        given = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.steps, "chain", [taken], [given], self.constants)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = helper.make_model(graph, **ONNX_VERSIONS).SerializeToString()
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def limited(limits: tuple[float, float] | None) -> ActivationArguments:
    return ActivationArguments(1, *limits) if limits else ActivationArguments(0)


def blocked_tensor(channels: int, size: tuple[int, int]) -> Tensor:
    """Zeros, from a cache line on."""
    shape = (1, -(-channels // LANES), *size, LANES)
    room = torch.zeros(prod(shape) + 16)
    first = -room.data_ptr() // 4 % 16
    return room[first : first + prod(shape)].view(shape)


def images_of(x: Tensor, channels: int) -> Images:
    if x.dim() == 4:
        return Images(*x.shape, *x.stride(), 0)
    batch, block, row, column, lane = x.stride()
    return Images(1, channels, *x.shape[2:4], batch, lane, row, column, block)


def whole_blocks(x: Tensor) -> Tensor:
    return F.pad(x, (0, -x.numel() % LANES))


def packed(weight: Tensor, window: tuple[int, ...], blocked: bool) -> Tensor:
    numbers = (ctypes.c_int64 * 6)(*window)
    count = LIBRARY.archcost_direct_packed_floats
    count.restype, count.argtypes = ctypes.c_int64, [ctypes.c_void_p, *[ctypes.c_int64] * 2]
    pack = LIBRARY.archcost_direct_pack
    pack.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2]
    room = blocked_tensor(count(numbers, *weight.shape[:2]), (1, 1)).flatten()
    pack(numbers, *weight.shape[:2], blocked, weight.data_ptr(), room.data_ptr())
    return room


def packed_pointwise(weight: Tensor) -> Tensor:
    return packed(weight, (1,) * 6, blocked=True)


def packed_depthwise(weight: Tensor) -> Tensor:
    pack = LIBRARY.archcost_inverted_residual_pack
    pack.argtypes = [*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2]
    channels, _, taps, _ = weight.shape
    room = blocked_tensor(channels, (taps, taps)).flatten()
    pack(taps, channels, weight.data_ptr(), room.data_ptr())
    return room


def call(name: str, arguments: ctypes.Structure, places: list[Tensor | None]) -> Callable[[], object]:
    step = getattr(LIBRARY, f"archcost_step_{name}")
    step.restype, step.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    addresses = (ctypes.c_void_p * len(places))(*(None if p is None else p.data_ptr() for p in places))

    def run(keep: list[Tensor | None] = places) -> None:
        step(ctypes.byref(arguments), addresses, 1)

    return run


def pointwise(a: int, b: int, size: int) -> tuple[int, list[Conv | Inverted]]:
    return size, [Conv(*pair) for pair in [(a, b), (b, a)] * 4]


def dense(channels: int, size: int, taps: tuple[int, int] = (3, 3)) -> tuple[int, list[Conv | Inverted]]:
    return size, [Conv(channels, channels, taps) for _ in range(4)]


def inverted(
    ins: int, channels: int, outs: int, size: int, *numbers: int
) -> tuple[int, list[Conv | Inverted]]:
    return size, [Inverted(ins, channels, outs, *numbers) for _ in range(6 if ins == outs else 1)]


CASES: dict[str, tuple[int, list[Conv | Inverted]]] = {
    **{f"pointwise {a}-{b}@{s}": pointwise(a, b, s) for a, b, s in ((256, 64, 56), (512, 128, 28))},
    **{f"pointwise {a}-{b}@{s}": pointwise(a, b, s) for a, b, s in ((1024, 256, 14), (2048, 512, 7))},
    **{f"pointwise {a}-{b}@{s}": pointwise(a, b, s) for a, b, s in ((24, 144, 56), (40, 240, 28))},
    **{f"pointwise {a}@{s}": pointwise(a, a, s) for a, s in ((58, 28), (116, 14), (232, 7), (72, 28))},
    **{f"dense 3x3 {c}@{s}": dense(c, s) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7), (96, 35))},
    "dense 1x7 192@17": dense(192, 17, (1, 7)),
    "dense 7x1 192@17": dense(192, 17, (7, 1)),
    "dense 5x5 48-64@35": (35, [Conv(48, 64, (5, 5))]),
    "strided 1x1 256-512@56": (56, [Conv(256, 512, (1, 1), 2)]),
    **{
        f"strided 3x3 {a}-{b}@{s}": (s, [Conv(a, b, (3, 3), 2)])
        for a, b, s in ((64, 128, 56), (128, 128, 56), (256, 256, 28), (512, 512, 14))
    },
    "stem 7x7/2 64": (224, [Conv(3, 64, (7, 7), 2)]),
    "stem 3x3/2 32": (224, [Conv(3, 32, (3, 3), 2)]),
    "stem 3x3/2 16": (224, [Conv(3, 16, (3, 3), 2)]),
    "stem 3x3 64": (224, [Conv(3, 64, (3, 3))]),
    **{
        f"inverted {c}@{s}": inverted(c, 6 * c, c, s)
        for c, s in ((24, 56), (32, 56), (32, 28), (64, 14), (96, 14), (160, 7))
    },
    "inverted 16-24@112/2": inverted(16, 96, 24, 112, 3, 2),
    "inverted 24-32@56/2": inverted(24, 144, 32, 56, 3, 2),
    "inverted 96-160@14/2": inverted(96, 576, 160, 14, 3, 2),
    "separable 32-16@112": inverted(32, 32, 16, 112),
    "separable 512@14": (14, [Inverted(512, 512, 512) for _ in range(4)]),
    "expanded 5x5 40-240@28": inverted(40, 240, 0, 28, 5),
    "expanded 5x5 112-672@14": inverted(112, 672, 0, 14, 5),
    "expanded 5x5 192-1152@7": inverted(192, 1152, 0, 7, 5),
}


def compare(
    size: int, layers: list[Conv | Inverted], seconds: float
) -> tuple[list[float], list[float], float]:
    """Multiply-adds a second of each sample of either side, and the largest difference."""
    torch.manual_seed(0)
    ins = layers[0].ins
    x = torch.randn(1, ins, size, size)
    y, name, at, macs, model = x, "x", (size, size), 0, Model()
    if ins > 4:
        y = blocked_tensor(ins, at)
        y.copy_(F.pad(x, (0, 0, 0, 0, 0, -ins % LANES)).view(1, -1, LANES, *at).permute(0, 1, 3, 4, 2))
    steps = []
    for i, layer in enumerate(layers):
        y, step = layer.step(y, at)
        steps.append(step)
        name = layer.nodes(f"layer{i}", name, model)
        macs, at = macs + layer.macs(at), layer.size(at)
    session = model.session(x.shape, name)
    given = {"x": x.numpy()}

    def ours() -> None:
        for step in steps:
            step()

    def theirs() -> Tensor:
        return torch.from_numpy(session.run(None, given)[0])

    ours()
    expected = theirs()
    got = y.permute(0, 1, 4, 2, 3).reshape(1, -1, *at)[:, : expected.shape[1]]
    error = ((got - expected).abs().max() / expected.abs().max()).item()
    rates: list[list[float]] = [[], []]
    sides = [(ours, rates[0]), (theirs, rates[1])]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rates[0]) < 9:
        random.shuffle(sides)
        for run, found in sides:
            start = time.thread_time_ns()
            run()
            found.append(macs / (time.thread_time_ns() - start))
    return rates[0], rates[1], error


def main() -> None:
    """Time the cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1, help="a case")
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these")
    asked = parser.parse_args()
    print(
        f"{kernels.isa()}, ONNX Runtime {onnxruntime.__version__}; G multiply-adds a second, best (median)\n"
    )
    print(f"{'':24}{'archcost':>15}{'ONNX Runtime':>15}  faster  difference")
    groups: dict[str, list[float]] = {}
    for name, case in CASES.items():
        if asked.only and not any(part in name for part in asked.only):
            continue
        ours, theirs, error = compare(*case, asked.seconds)
        faster = median(ours) / median(theirs)
        groups.setdefault(name.split()[0], []).append(faster)
        sides = "".join(f"{max(s):8.1f} ({median(s):4.1f})" for s in (ours, theirs))
        print(f"{name:24}{sides}{faster:8.2f}{error:12.0e}", flush=True)
    for group, found in groups.items():
        print(f"{group:24}geometric mean {geometric_mean(found):.2f}")


if __name__ == "__main__":
    main()
