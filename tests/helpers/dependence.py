"""What really depends on what: every index of an input axis is changed in the real model in turn."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from archcost.fields.intervals.taps import EMPTY
from archcost.fields.replay.replay import InputAxis, replay
from archcost.trace.graph import refs
from archcost.trace.run import record
from helpers.calls import Call


class Windows(NamedTuple):
    """First and last index of one input axis that each element of one output sees; first > last: none."""

    axis: tuple[int, int]
    output: int
    lo: np.ndarray
    hi: np.ndarray

    def covers(self, other):
        empty = other.lo > other.hi
        return bool((empty | ((self.lo <= other.lo) & (self.hi >= other.hi))).all())

    def equals(self, other):
        return self.covers(other) and other.covers(self)


def _leaves(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [leaf for item in value for leaf in _leaves(item)] if hasattr(value, "__iter__") else []


def _axes(inputs):
    return [InputAxis(t, d, n) for t, x in enumerate(inputs) for d, n in enumerate(x.shape) if n > 1]


def claimed(model, inputs, device="meta"):
    """What the replay says, and the operations it had no rule for."""
    trace = record(model, inputs, device=device)
    axes = _axes(inputs)
    found = replay(trace, axes)
    assert len(found.outputs) == len(list(refs(trace.outputs)))
    said = []
    for number, (ref, seen) in enumerate(found.outputs):
        assert seen is None or seen.shape == ref.shape
        for a, axis in enumerate(axes):
            rows = np.full((2, *ref.shape), EMPTY)
            for span in seen.axes[a] if seen is not None else ():
                rows = np.minimum(rows, span.plain().values[:2])
            lo, hi = rows[0], np.where(rows[1] >= EMPTY // 2, -1, -rows[1])
            said.append(Windows((axis.tensor, axis.dim), number, lo, hi))
    return said, found.opaque


def _changed(x, dim, index, scale):
    new = x.clone()
    part = new.select(dim, index)
    if x.dtype == torch.bool:
        part.logical_not_()
    elif not (x.is_floating_point() or x.is_complex()):
        part.copy_((part + int(abs(scale))) % (int(x.max()) + 1))
    elif x.is_complex():
        part.copy_(torch.randn_like(part) * scale)
    else:
        part.copy_((torch.rand_like(part) + 0.1) * scale)
    return new


def true_windows(model, inputs):
    """Which indices change which elements: after each round of changes what is known so far.

    Every index of every dimension is changed in turn, in a round by one scale.
    """

    def run(given):
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            return [out.clone() for out in _leaves(model(*(x.clone() for x in given)))]

    before = run(inputs)
    axes = _axes(inputs)
    true = [
        Windows((axis.tensor, axis.dim), number, np.full(out.shape, EMPTY), np.full(out.shape, -1))
        for number, out in enumerate(before)
        for axis in axes
    ]
    for scale in (40.0, -40.0, 1.0):
        for a, axis in enumerate(axes):
            for index in range(axis.size):
                given = list(inputs)
                given[axis.tensor] = _changed(inputs[axis.tensor], axis.dim, index, scale)
                for number, (old, new) in enumerate(zip(before, run(given), strict=True)):
                    moved = ((old != new) & ~(old.isnan() & new.isnan())).numpy()
                    window = true[number * len(axes) + a]
                    np.minimum(window.lo, index, out=window.lo, where=moved)
                    np.maximum(window.hi, index, out=window.hi, where=moved)
        yield true


def disagreements(case, exact=True, devices=("meta", "cpu")):
    """Where the replay and the model disagree, in words; empty where they agree.

    ``case`` is a model or a function, and its inputs. Not ``exact``: the replay may say more than the truth.
    """
    model, *inputs = case
    model = model if isinstance(model, nn.Module) else Call(model)
    if any(x.dtype == torch.float64 for x in inputs):
        model = model.double()
    claims = [(device, *claimed(model, tuple(inputs), device)) for device in devices]
    wrong = [f"{device}: {o.name} is opaque ({o.reason})" for device, _, opaque in claims for o in opaque]
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
    for true in true_windows(model, inputs):
        found = [text for device, said, _ in claims for text in _compared(device, said, true, exact)]
        if exact and not found:
            break
    torch.set_num_threads(threads)
    return wrong + found


def _compared(device, said, truth, exact):
    for told, true in zip(said, truth, strict=True):
        assert (told.axis, told.output) == (true.axis, true.output)
        if told.equals(true) if exact else told.covers(true):
            continue
        where = (true.lo <= true.hi) | (told.lo <= told.hi)
        at = tuple(np.argwhere(where & ((told.lo != true.lo) | (told.hi != true.hi)))[0])
        kind = "wider" if told.covers(true) else "WRONG"
        yield (
            f"{device}, {kind}: output {true.output} at {tuple(map(int, at))}, input {true.axis[0]} axis "
            f"{true.axis[1]}: said [{told.lo[at]}, {told.hi[at]}], truth [{true.lo[at]}, {true.hi[at]}]"
        )


def cases(tables, only=None, without=()):
    """Parameters of a test from tables of named cases."""
    return [
        pytest.param(case, id=f"{family}: {name}")
        for family, table in tables.items()
        for name, case in table.items()
        if name not in without and (only is None or name in only)
    ]


def reals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wholes(high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))
