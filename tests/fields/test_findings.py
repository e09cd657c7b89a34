"""What the numbers mean, in words: each finding where it is true, and nowhere else."""

import numpy as np
import pytest
import torch
from torch import nn

import archcost
from archcost.fields.replay.support import covered, support_of


def conv(kernel, stride=1, dilation=1, padding=None):
    padding = dilation * (kernel - 1) // 2 if padding is None else padding
    return nn.Conv2d(2, 2, kernel, stride, padding, dilation)


def fields_of(model, side=32):
    return archcost.analyze(model, input_size=(1, 2, side, side)).fields


def kinds(fields, kind):
    return [finding for finding in fields.findings if finding.kind == kind]


class Merge(nn.Module):
    """Two branches, added or concatenated."""

    def __init__(self, one, other, join):
        super().__init__()
        self.one, self.other, self.join = one, other, join

    def forward(self, x):
        a, b = self.one(x), self.other(x)
        return a + b if self.join == "add" else torch.cat([a, b], 1)


@pytest.mark.parametrize("join", ["add", "cat"])
def test_a_resnet_d_shortcut_is_half_a_pixel_off_and_a_plain_one_is_not(join):
    main = conv(3, 2)
    (found,) = kinds(fields_of(Merge(main, nn.AvgPool2d(2), join)), "misaligned")
    assert f"joined by {join} are 0.5 pixels apart" in found.text
    assert not kinds(fields_of(Merge(main, nn.Conv2d(2, 2, 1, 2), join)), "misaligned")


def test_a_shift_along_one_axis_is_said_of_that_axis():
    crooked = Merge(nn.Conv2d(2, 2, (3, 1), padding=(1, 0)), nn.ZeroPad2d((0, 0, 2, -2)), "add")
    (found,) = kinds(fields_of(crooked), "misaligned")
    assert "2 x 0 pixels apart" in found.text


def test_upsampling_alone_is_not_misaligned():
    for up in (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")):
        unet = Merge(conv(3), nn.Sequential(nn.AvgPool2d(2), up), "cat")
        assert not kinds(fields_of(unet), "misaligned")


def test_layers_behind_a_map_that_sees_everything_gain_no_context():
    layers = [conv(3) for _ in range(12)]
    fields = fields_of(nn.Sequential(*layers), side=8)
    # The input of layer i sees 2 i + 1 pixels; from the corner that is all 8 when i >= 7.
    assert [f.module for f in kinds(fields, "unproductive")] == [str(i) for i in range(7, 12)]
    assert not kinds(fields_of(nn.Sequential(*layers), side=64), "unproductive")


def test_a_1x1_convolution_is_never_called_unproductive():
    fields = fields_of(nn.Sequential(conv(9), nn.Conv2d(2, 2, 1)), side=4)
    assert not kinds(fields, "unproductive")


def test_gates_do_not_make_layers_unproductive():
    class Gate(nn.Module):
        def forward(self, x):
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    fields = fields_of(nn.Sequential(conv(3), Gate(), conv(3), conv(3)))
    assert not kinds(fields, "unproductive")
    (found,) = kinds(fields, "global")
    assert found.module == "1"
    assert "mean" in found.text


@pytest.mark.parametrize(
    ("dilations", "taps"),
    [((2, 2, 2), range(-6, 7, 2)), ((1, 2, 3), range(-6, 7)), ((2, 4), range(-6, 7, 2)), ((3,), (-3, 0, 3))],
)
def test_the_pixels_that_dilation_leaves_out_are_known_one_by_one(dilations, taps):
    fields = fields_of(nn.Sequential(*(conv(3, dilation=d) for d in dilations)))
    inputs = fields.inputs[0]
    for reads in covered(support_of(fields.trace, inputs), 0, inputs):
        assert np.flatnonzero(reads).tolist() == [16 + t for t in taps]
    found = {f.module: f.text for f in kinds(fields, "uncovered")}
    window = max(taps) - min(taps) + 1
    if len(taps) == window:
        assert "" not in found
    else:
        assert f"{100 * (1 - (len(taps) / window) ** 2):.0f} %" in found[""]


def test_the_share_in_padding_is_that_of_a_count_by_hand():
    # A 3x3 window with a border of one over 4x4: along an axis the ends see 2 of 3, the middle 3 of 3.
    fields = fields_of(nn.Sequential(conv(3), nn.ReLU()), side=4)
    along = np.mean([2 / 3, 1, 1, 2 / 3])
    assert fields.padding_share("0") == pytest.approx(1 - along**2)
    assert fields.padding_share("1") == pytest.approx(1 - along**2)
    assert fields_of(nn.Sequential(nn.Conv2d(2, 2, 3)), side=4).padding_share("0") == 0


def test_an_operation_without_a_rule_is_named():
    @torch.library.custom_op("archcost_tests::opaque", mutates_args=())
    def opaque(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @opaque.register_fake
    def _(x):
        return torch.empty_like(x)

    class Odd(nn.Module):
        def forward(self, x):
            return torch.ops.archcost_tests.opaque(x)

    fields = fields_of(nn.Sequential(conv(3), Odd()))
    (found,) = kinds(fields, "unknown")
    assert found.module == "1"
    assert "archcost_tests.opaque" in found.text
    assert fields["1"].window == ((0, 31), (0, 31))


def test_of_several_calls_what_none_of_them_reads_is_unread():
    class Twice(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift, self.conv = shift, nn.Conv1d(1, 1, 3, padding=2, dilation=2)
            self.act = nn.Sigmoid()

        def forward(self, x):
            return self.act(self.conv(x)) + self.act(self.conv(x.roll(self.shift, 2)))

    def unread(shift):
        fields = archcost.analyze(Twice(shift), input_size=(1, 1, 32)).fields
        return {f.module: f.text for f in kinds(fields, "uncovered")}.get("act")

    # Every second pixel of 5, once more 2 further on of 7; and the pixels between.
    assert unread(0) == "act leaves 40 % of its window unread"
    assert unread(-2) == "act leaves 43 % of its window unread"
    assert unread(-1) is None
