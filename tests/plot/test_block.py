"""The picture of a block shows its layers, its branches and what they cost."""

import pytest
import torch
from torch import nn

import archcost
from archcost import SpecError, plot
from archcost.plot.drawing.block import steps_of

pytest.importorskip("matplotlib")


class Inception(nn.Module):
    """Two branches and a pooling, and a residual connection around them."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.five = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 5, padding=2))
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        return (x + torch.cat([self.one(x), self.five(x)], 1)).relu() + self.pool(x)


@pytest.fixture(scope="module")
def analysis():
    return archcost.analyze(nn.Sequential(nn.Conv2d(3, 8, 3), Inception()).eval(), input_size=(1, 3, 10, 10))


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def boxes(figure):
    """Left and right end, top and bottom, by the id of a box."""
    found = {}
    for patch in figure.axes[0].patches:
        (x, y), wide, tall = patch.get_xy(), patch.get_width(), patch.get_height()
        found.setdefault(patch.get_gid(), []).append((x, x + wide, y + tall, y))
    return found


def test_steps_are_layers_and_joins_with_what_feeds_them(analysis):
    steps = steps_of(analysis, "1")
    assert [(step.module, step.sources) for step in steps] == [
        ("1.one.0", (-1,)), ("1.five.0", (-1,)), ("1.five.2", (1,)),
        ("1", (0, 2)), ("1", (-1, 3)), ("1.pool", (-1,)), ("1", (4, 5)),
    ]  # fmt: skip
    assert sum(step.macs for step in steps) == analysis["1"].macs


def test_the_picture_has_every_layer_with_its_kernel_channels_and_macs(analysis, tmp_path):
    figure = plot.block(analysis, "1", path=tmp_path / "block.svg")
    said = texts(figure)
    assert "1 (Inception)" in said
    assert "5x5\n2 to 4\n12.8 k MACs" in said
    assert {"3x3 max pool", "concatenated", "+", "input 8x8x8", "output 8x8x8"} <= set(said)
    assert (tmp_path / "block.svg").read_text(encoding="utf-8").count("1.five.2") >= 1


def test_branches_stand_side_by_side_and_nothing_overlaps(analysis):
    found = boxes(plot.block(analysis, "1"))
    (one,), (five,), (pool,) = found["1.one.0"], found["1.five.0"], found["1.pool"]
    assert one[1] < five[0] < five[1] < pool[0]
    every = [box for same in found.values() for box in same]
    for at, (left, right, top, bottom) in enumerate(every):
        for other in every[at + 1 :]:
            assert right <= other[0] or other[1] <= left or bottom >= other[2] or other[3] >= top
    (out,) = [end for end in found["end"] if end[2] == min(end[2] for end in found["end"])]
    assert all(out[2] < box[3] for box in every if box != out)


def test_a_branch_within_a_branch_ends_where_it_stands():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 5))
            self.d, self.e, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(5, 6)

        def forward(self, x):
            x = self.a(x)
            return self.last(torch.cat([torch.cat([self.b(x), self.c(x)], 1), self.d(x) + self.e(x)], 1))

    figure = plot.block(Nested(), input_size=(1, 4, 5, 5))
    found = boxes(figure)
    inner, _, outer = sorted(found["join"], key=lambda join: (round(join[1] - join[0], 6), join[0]))
    assert found["b"][0][0] == inner[0]
    assert inner[1] == found["c"][0][1] < found["d"][0][0] < outer[1]
    assert "matmul\n5 to 6\n1.80 k MACs" in texts(figure)


def test_a_whole_model_is_a_block_too():
    steps = steps_of(archcost.analyze(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), input_size=(1, 3, 8, 8)))
    assert [step.sources for step in steps] == [(-1,)]


def test_what_cannot_be_drawn_is_refused(analysis):
    with pytest.raises(SpecError, match="has no module 'two'"):
        plot.block(analysis, "two")
    with pytest.raises(SpecError, match="no layers to draw"):
        plot.block(analysis, "1.one.2")
    listed = nn.ModuleDict({"inner": nn.ModuleList([nn.Conv2d(3, 3, 1)])})
    listed.forward = lambda x: listed["inner"][0](x)
    with pytest.raises(SpecError, match="never called itself"):
        plot.block(listed, "inner", input_size=(1, 3, 4, 4))
    deep = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(40)))
    with pytest.raises(SpecError, match="1 layers wide and 40 long"):
        plot.block(deep, input_size=(1, 1, 4, 4))
    with pytest.raises(SpecError, match="no picture format"):
        plot.block(analysis, "1", path="block.xyz")
