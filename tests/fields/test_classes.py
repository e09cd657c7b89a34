"""What sees the same is held once: how many numbers a replay makes, and that they say the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost.fields import fields
from archcost.fields.intervals import span
from archcost.fields.intervals.classes import compacted, flattened, together, unique_columns
from helpers.calls import Call
from helpers.dependence import disagreements, reals


@pytest.fixture
def numbers(monkeypatch):
    """How many numbers Spans hold that were made in the test."""
    made = [0]

    original = span.Span.values

    class Counting(span.Span):
        def __init__(self, values, *rest, **options):
            super().__init__(values, *rest, **options)
            made[0] += 0 if values is None else values.size

        @property
        def values(self):
            late = self._values is None
            values = original.fget(self)
            made[0] += values.size if late else 0
            return values

    rooms = {"intervals": ("span", "unions", "intervals"), "replay": ("memory", "replay")}
    for room, module in ((room, module) for room, modules in rooms.items() for module in modules):
        monkeypatch.setattr(f"archcost.fields.{room}.{module}.Span", Counting)
    return made


def halo(x, blocks=8, block=8, halo=3, heads=8):
    """Attention in blocks that look beyond their borders, with positions relative along each axis."""
    win = block + 2 * halo
    n, c = x.shape[:2]
    q = x.view(n * heads, -1, blocks, block, blocks, block).permute(0, 1, 3, 5, 2, 4)
    q = q.reshape(n * heads, -1, block * block, blocks**2).permute(0, 3, 2, 1)
    padded = F.pad(x, (halo,) * 4)
    k = padded.unfold(2, win, block).unfold(3, win, block).reshape(n * heads, -1, blocks**2, win * win)
    k = k.permute(0, 2, 3, 1)
    relative = x.new_zeros(c // heads, 2 * win - 1)

    def logits(q):  # (B, block, block, width) to (B, block, block, 2 win - 1) to (B, block, win, block, win)
        found = (q @ relative).reshape(-1, block, 2 * win - 1)
        found = F.pad(F.pad(found, (0, 1)).flatten(1), (0, 2 * win - 1 - block))
        found = found.reshape(-1, block + 1, 2 * win - 1)[:, :block, win - 1 :]
        return found.reshape(-1, block, 1, block, win).expand(-1, -1, win, -1, -1)

    each = q.reshape(-1, block, block, c // heads)
    across = logits(each).permute(0, 1, 3, 2, 4)
    down = logits(each.transpose(1, 2)).permute(0, 3, 1, 4, 2)
    bias = (across + down).reshape(n * heads, blocks**2, block * block, win * win)
    return ((q @ k.mT + bias).softmax(-1) @ k).transpose(1, 3)


class Mixed(nn.Module):
    """Depthwise convolutions of several kernels side by side, padded as TensorFlow does."""

    def __init__(self, channels=96, kernels=(3, 5, 7, 9)):
        super().__init__()
        part = channels // len(kernels)
        self.first = nn.Conv2d(3, channels, 3, 2)
        self.parts = nn.ModuleList(nn.Conv2d(part, part, k, groups=part) for k in kernels)
        self.again = nn.ModuleList(nn.Conv2d(part, part, k, groups=part) for k in kernels)

    def mixed(self, x, convs):
        pieces = x.chunk(len(convs), 1)
        return torch.cat(
            [c(F.pad(p, (c.kernel_size[0] // 2,) * 4)) for c, p in zip(convs, pieces, strict=True)], 1
        )

    def forward(self, x):
        return self.mixed(self.mixed(self.first(F.pad(x, (0, 1, 0, 1))), self.parts), self.again)


ONES = torch.ones(1, 2, 4, dtype=torch.float64)
WIDE = reals(1, 2, 3)


def padded(x, *sizes):
    return F.pad(x, sizes)


# With every element written out 194,355,960, 146,081,108 and 59,496.
@pytest.mark.parametrize(
    ("model", "shape", "most"),
    [
        (Call(halo), (1, 64, 64, 64), 12_000_000),
        (Mixed(), (1, 3, 224, 224), 8_000_000),
        (Call(lambda x: F.pad(x.repeat_interleave(16, 1), (2, 3, 1, 4)) * 2), (1, 64, 64, 64), 10_000),
    ],
)
def test_a_replay_makes_no_more_numbers_than_there_are_kinds(numbers, model, shape, most):
    analysis = archcost.analyze(model, input_size=shape)
    numbers[0] = 0
    assert not analysis.fields.opaque
    assert 0 < numbers[0] < most


def test_fields_of_all_layers_and_findings_take_two_replays(monkeypatch):
    visits = []
    replay = fields.replay

    def counted(trace, *rest, **options):
        visits.append(options.get("stop"))
        return replay(trace, *rest, **options)

    monkeypatch.setattr(fields, "replay", counted)
    monkeypatch.setattr("archcost.fields.replay.axes.replay", counted)
    found = archcost.analyze(Mixed(), input_size=(1, 3, 64, 64)).fields
    found.by_name, found.network, found.output, found.findings, found.padding_share("first")
    stop, whole = visits
    assert found.trace.ops[stop].base == "aten.convolution"  # up to the first window, for the axes
    assert sum(op.base == "aten.convolution" for op in found.trace.ops[:stop]) == 0
    assert whole is None


@pytest.mark.parametrize(
    "case",
    [
        (lambda x: halo(x, 2, 2, 1, 2), reals(1, 4, 4, 4)),
        (Mixed(8, (1, 3)), reals(1, 3, 9, 9)),
        (lambda x: padded(x.repeat_interleave(3, 1), 2, 1, 1, 2).view(1, 6, 2, -1), reals(1, 4, 3, 2)),
        (lambda x: x.repeat(1, 3, 4, 1).view(1, 2, 3, 12, 2)[:, :, 1:, ::5], reals(1, 2, 3, 2)),
        (lambda x: torch.cat([x.repeat(1, 5, 1), x[:, :1] * 2, x.repeat(1, 3, 1)], 1).roll(2, 1), WIDE),
        (lambda x: (x.repeat(5, 1)[:, None] + x.repeat_interleave(5, 0)).flatten(0, 1)[7:50:3], WIDE[0]),
        (lambda x: x.repeat_interleave(4, 0).cumsum(0) + x.repeat(4, 1), reals(3, 2)),
        (lambda x: F.conv1d(padded(x.repeat_interleave(5, 2), 3, 3), ONES.to(x.device), stride=3), WIDE),
        (lambda x: x.expand(4, 3, 2).flatten(0, 1).repeat(3, 1).reshape(9, 4, 2).softmax(1), reals(3, 2)),
    ],
)
def test_what_is_held_once_is_what_every_element_sees(case):
    assert disagreements(case, devices=["meta"]) == []


def test_maps_of_one_dimension_are_refined_together():
    a, b = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 1, 0, 0, 1])
    of_a, of_b, found = together(a, 2, b, 2)
    assert len(of_a) == 4
    assert (of_a[found] == a).all()
    assert (of_b[found] == b).all()
    of_a, of_b, found = together(None, 3, np.array([0, 1, 0]), 2)
    assert found is None
    assert of_a.tolist() == [0, 1, 2]
    assert of_b.tolist() == [0, 1, 0]


def test_a_map_holds_the_classes_that_occur_and_no_others():
    used, found = compacted(np.array([7, 3, 7]))
    assert used.tolist() == [3, 7]
    assert found.tolist() == [1, 0, 1]
    assert compacted(np.array([5, 4]))[1] is None
    assert compacted(np.array([5, 5]))[0].tolist() == [5]


def test_dimensions_after_one_another_have_the_map_of_all():
    # Two heads alike, three rows, two columns alike of each.
    assert flattened([None, None, None], [1, 3, 1], [2, 3, 2]).tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert flattened([None, None], [2, 3], [2, 3]) is None
    assert flattened([np.array([0, 1, 1]), None], [2, 2], [3, 2]).tolist() == [0, 1, 2, 3, 2, 3]


def test_columns_that_are_alike_are_found():
    first, which = unique_columns(np.array([[1, 2, 1, 2], [0, 0, 0, 5]]))
    assert first == [0, 1, 3]
    assert which.tolist() == [0, 1, 0, 2]
