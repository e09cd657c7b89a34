"""Receptive fields of random networks, against the networks themselves, at every position of every layer."""

import math

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn

import archcost
from archcost.fields.intervals.taps import EMPTY
from archcost.fields.replay.replay import InputAxis, replay
from helpers.random_networks import (
    CONVOLUTIONS,
    KINDS,
    MAX_POOLS,
    TRANSPOSED,
    Builder,
    Step,
    draw,
    sheared,
)

# The two witnesses: for each call of each module, whether row r of the input axis reaches each element.


def listen(model, notice):
    """Calls ``notice(name, output)`` whenever a module returns; gives what removes the hooks again."""
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out, name=name: notice(name, out))
        for name, module in model.named_modules()
    ]
    return lambda: [hook.remove() for hook in hooks]


def reached_by_nan(model, shape, dim):
    """One copy of the input for each row, with NaN in that row."""
    found = {}
    x = torch.rand(shape, dtype=torch.float64).repeat(shape[dim], *(1,) * (len(shape) - 1))
    for row in range(shape[dim]):
        x[row].select(dim - 1, row).fill_(float("nan"))
    silence = listen(model, lambda name, out: found.setdefault(name, []).append(out.isnan().numpy()))
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        model(x)
    silence()
    return found


def reached_by_derivative(model, shape, dim):
    """The derivative with respect to each row, in forward mode: one copy of the input for each row."""
    found = {}
    x = 0.5 + torch.rand(shape, dtype=torch.float64).repeat(shape[dim], *(1,) * (len(shape) - 1))
    tangent = torch.zeros_like(x)
    for row in range(shape[dim]):
        tangent[row].select(dim - 1, row).uniform_(0.5, 1.5)

    def notice(name, out):
        slope = forward_ad.unpack_dual(out).tangent
        slope = torch.zeros_like(out) if slope is None else slope.abs()
        # Interpolation weights that should be zero are of the order of the rounding.
        found.setdefault(name, []).append((slope > 1e-14 * slope.amax(0)).numpy())

    silence = listen(model, notice)
    with torch.no_grad(), forward_ad.dual_level():
        model(forward_ad.make_dual(x, tangent))
    silence()
    return found


def told(intervals, axis, shape):
    """First and last row that the engine says each element sees; (EMPTY, -1) for none."""
    rows = np.full((2, *shape), EMPTY)
    for span in intervals.axes[axis] if intervals is not None else ():
        rows = np.minimum(rows, span.plain().values[:2])
    nothing = rows[0] >= EMPTY // 2
    return np.where(nothing, EMPTY, rows[0]), np.where(nothing, -1, -rows[1])


def true(reached):
    """The same of a witness: ``reached`` is (rows, channels, positions...)."""
    some = reached.any(0)
    lo, hi = reached.argmax(0), len(reached) - 1 - reached[::-1].argmax(0)
    return np.where(some, lo, EMPTY), np.where(some, hi, -1)


def disagreements(model, shape, witness):
    """Where the engine and a witness differ, in words, one line for each call of a module."""
    trace = archcost.analyze(model, torch.zeros(shape, dtype=torch.float64)).trace
    axes = [InputAxis(0, dim, n) for dim, n in enumerate(shape) if dim > 1]
    found = replay(trace, axes)
    wrong = [f"no rule: {opaque}" for opaque in found.opaque]
    for number, axis in enumerate(axes):
        reached = {name: iter(calls) for name, calls in witness(model, shape, axis.dim).items()}
        for call in trace.calls:
            seen = true(next(reached[call.module]))
            size = call.outputs[0].shape[1:]
            said = [rows[0] for rows in told(found.calls[call.index][0], number, (1, *size))]
            differ = (said[0] != seen[0]) | (said[1] != seen[1])
            if differ.any():
                at = tuple(map(int, np.argwhere(differ)[0]))
                what = getattr(model.get_submodule(call.module), "text", call.module)
                wrong.append(
                    f"{call.module} {what}, input axis {axis.dim}: {differ.sum()} of {differ.size}, as {at}: "
                    f"said {said[0][at], said[1][at]}, truth {seen[0][at], seen[1][at]}"
                )
    return wrong


def holds(seed, smooth, kinds=None):
    model, shape = draw(seed, smooth, kinds)
    assert len(model) > 1, "nothing was drawn that fits"
    witness = reached_by_derivative if smooth else reached_by_nan
    wrong = disagreements(model, shape, witness)
    assert not wrong, f"input {shape}\n" + "\n".join(wrong)


SOME, MANY = range(20), range(20, 520)
named = "network {}".format


@pytest.mark.parametrize("seed", SOME, ids=named)
def test_every_position_sees_the_rows_whose_nan_reaches_it(seed):
    holds(seed, smooth=False)


@pytest.mark.parametrize("seed", SOME, ids=named)
def test_every_position_sees_the_rows_it_has_a_derivative_of(seed):
    holds(seed, smooth=True)


@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: layer.__name__)
def test_a_network_of_one_kind_of_layer_agrees_with_both_witnesses(layer):
    for seed in range(8):
        holds(seed, smooth=bool(seed % 2), kinds=[layer])


# What few random networks meet.
RARE = {
    "transposed convolution of size 1 that pads its output": lambda x: F.conv_transpose2d(
        x, x.new_ones(2, 1, 1, 1), bias=x.new_ones(1), output_padding=(1, 0), dilation=(2, 1)
    ),
    "pooling wider than the map, moved into its padding": lambda x: F.avg_pool2d(
        x[..., :2, :2], (4, 2), 3, (2, 1)
    ),
    "empty slice written to": lambda x: x.clone() + 0 * x[:, 2:].clone().mul_(2).sum(),
    "doubled by nearest neighbour, at another scale": lambda x: F.interpolate(x, scale_factor=(2.1, 2.2)),
    "copied by nearest neighbour, at another scale": lambda x: F.interpolate(x, scale_factor=(1.08, 1.05)),
    "nearest neighbour in single precision": lambda x: F.interpolate(
        torch.cat([x, x], 2)[:, :, :14], size=(23, 9), mode="nearest-exact"
    ),
    "linear at another scale": lambda x: F.interpolate(x, scale_factor=(1.05, 1.08), mode="bilinear"),
    "cubic at another scale": lambda x: F.interpolate(x, scale_factor=(1.05, 1.08), mode="bicubic"),
    "cubic and antialiased at the same places": lambda x: F.interpolate(
        x, size=(21, 13), mode="bicubic", antialias=True
    ),
    "antialiased to the same size": lambda x: F.interpolate(
        x, scale_factor=(1.05, 2), mode="bilinear", antialias=True
    ),
}


@pytest.mark.parametrize("function", RARE.values(), ids=RARE)
def test_rare_layers_see_the_rows_they_have_a_derivative_of(function):
    model = nn.Sequential(Step("every channel moved on", sheared), Step("rare", function))
    assert not disagreements(model, (1, 2, 9, 11), reached_by_derivative)


@pytest.mark.exhaustive
@pytest.mark.parametrize("smooth", [False, True], ids=["NaN", "derivative"])
@pytest.mark.parametrize("seed", MANY, ids=named)
def test_a_thousand_networks_agree_with_the_witnesses(seed, smooth):
    holds(seed, smooth)


# The closed form: what an unbounded input would give, read off one that may be tiny.


def regular(seed):
    """A network of windows alone, and the smallest size that it takes.

    Behind an up-sampling positions differ in turn; every map must be large enough to show one of each.
    """
    builder = Builder(seed, smooth=False)
    layers, phases, periods = [], [], (1,) * builder.axes
    for _ in range(builder.int(2, 4)):
        kernel, stride, dilation = (builder.ints(1, high) for high in (4, 3, 2))
        padding = tuple(builder.int(0, k // 2) for k in kernel)
        mode = builder.one("zeros", "reflect", "replicate")
        down = [
            builder.pick(CONVOLUTIONS)(1, 1, kernel, stride, padding, dilation, padding_mode=mode),
            builder.pick(MAX_POOLS)(kernel, stride, padding, dilation),
        ]
        wide = tuple(map(max, kernel, stride))  # it leaves no gaps
        up = [
            builder.pick(TRANSPOSED)(1, 1, wide, stride, padding),
            nn.Upsample(scale_factor=stride),
        ]
        if builder.maybe(0.3):
            layers.append(builder.one(*up))
            periods = tuple(p * s for p, s in zip(periods, stride, strict=True))
        else:
            layers.append(builder.one(*down))
            periods = tuple(p // math.gcd(p, s) for p, s in zip(periods, stride, strict=True))
        phases.append(periods)
    for size in range(2, 300):
        shape = (1, 1, *(size + i for i in range(builder.axes)))
        if shows(layers, phases, shape):
            return nn.Sequential(*layers), shape
    raise AssertionError(f"{layers} {phases} take no size")


def shows(layers, phases, shape):
    """Whether each layer can take what it gets, and each map has so many positions."""
    x = torch.zeros(shape, device="meta")
    for layer, least in zip(layers, phases, strict=True):
        try:
            x = layer.to("meta")(x)
        except RuntimeError:
            return False
        if any(n < m for n, m in zip(x.shape[2:], least, strict=True)):
            return False
    return True


def forms(analysis, layer, position):
    """Size, stride and padding, as said without looking at the size of the input."""
    field = analysis.fields.at(layer, position).local
    return field.size, field.stride, field.padding


@pytest.mark.parametrize("seed", range(40), ids=named)
def test_size_stride_and_padding_do_not_depend_on_the_size_of_the_input(seed):
    model, shape = regular(seed)
    small, large = (
        archcost.analyze(model, torch.zeros(1, 1, *(factor * n for n in shape[2:]))) for factor in (1, 4)
    )
    for call in small.trace.calls:
        extent = call.outputs[0].shape[2:]
        for i in range(max(extent)):
            at = tuple(min(i, n - 1) for n in extent)
            said = forms(small, call.module, at), forms(large, call.module, at)
            assert said[0] == said[1], f"{call.module} of {model} at {at} of {shape}"
