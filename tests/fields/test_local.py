"""What makes a receptive field global, and what it is with that taken as a constant."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from helpers.calls import Call

SIDE = 15
X = torch.zeros(1, 4, SIDE, SIDE)


class Stem(nn.Module):
    """A 3x3 convolution, then ``head``; every field before the head is 3."""

    def __init__(self, head):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.head = head if isinstance(head, nn.Module) else Call(head)

    def forward(self, x):
        return self.head(self.stem(x))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.fc = pool, nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x * self.fc(self.pool(x)).sigmoid()


class ImageBranch(nn.Module):
    """ASPP's: the pooled image, resized back and put beside a convolution."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3, padding=2, dilation=2)

    def forward(self, x):
        image = F.interpolate(self.pool(x), size=x.shape[2:], mode="bilinear")
        return torch.cat([self.conv(x), image], 1)


class Attention(nn.Module):
    """Over all positions, as tokens, with or without the residual sum."""

    def __init__(self, residual):
        super().__init__()
        self.residual, self.attend = residual, nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).mT
        mixed = self.attend(tokens, tokens, tokens)[0].mT.view_as(x)
        return x + mixed if self.residual else mixed


def windows(x):
    """Attention within windows of 5x5."""
    n, c, h, w = x.shape
    cut = x.view(n, c, h // 5, 5, w // 5, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 25, c)
    cut = F.scaled_dot_product_attention(cut, cut, cut)
    return cut.view(n, h // 5, w // 5, 5, 5, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def field(head):
    model = Stem(head)
    fields = archcost.analyze(model, X, progress=False).fields
    assert fields.opaque == ()
    return fields.at("")


GLOBAL = {
    "a gate": (Gate(nn.AdaptiveAvgPool2d(1)), "`pool` in `head` (mean)"),
    "a gate by an average over all": (Gate(nn.AvgPool2d(SIDE)), "`pool` in `head` (avg_pool2d)"),
    "a gate by the maximum": (Gate(nn.AdaptiveMaxPool2d(1)), "`pool` in `head` (adaptive_max_pool2d)"),
    "a gate by a functional average": (
        lambda x: x * F.avg_pool2d(x, x.shape[2:]).sigmoid(),
        "`head` (avg_pool2d)",
    ),
    "a gate by mean": (lambda x: x * x.mean((2, 3), keepdim=True), "`head` (mean)"),
    "a gate axis by axis": (
        lambda x: x * x.mean(2, keepdim=True).amax(3, keepdim=True),
        "`head` (mean), `head` (amax)",
    ),
    "global response norm": (
        lambda x: x + x * x.norm(dim=(2, 3), keepdim=True),
        "`head` (linalg_vector_norm)",
    ),
    "group norm": (nn.GroupNorm(2, 4), "`head` (native_group_norm)"),
    "instance norm": (nn.InstanceNorm2d(4), "`head` (native_batch_norm)"),
    "layer norm over all": (nn.LayerNorm([4, SIDE, SIDE]), "`head` (native_layer_norm)"),
    "batch norm, training": (nn.BatchNorm2d(4).train(), "`head` (native_batch_norm)"),
    "attention over all tokens": (Attention(residual=True), "`attend` in `head` "),
    "softmax over all positions": (lambda x: x.flatten(2).softmax(-1).view_as(x), "`head` (softmax)"),
}


@pytest.mark.parametrize(("head", "reason"), GLOBAL.values(), ids=GLOBAL)
def test_an_operation_over_the_full_extent_is_global_and_leaves_the_local_field(head, reason):
    found = field(head)
    assert found.is_global
    assert found.reason.startswith(reason)
    assert found.window == ((0, SIDE - 1),) * 2
    assert found.local.size == (3, 3)
    assert found.local.stride == (1, 1)
    assert found.local.window == ((6, 8), (6, 8))
    assert not found.local.is_global


LOCAL = {
    "batch norm, inference": (nn.BatchNorm2d(4).eval(), 3),
    "layer norm over channels": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2), 3),
    "local response norm": (nn.LocalResponseNorm(2), 3),
    "softmax over channels": (nn.Softmax2d(), 3),
    "attention in windows": (windows, 7),
    "a convolution as large as the map": (nn.Conv2d(4, 4, SIDE, padding=SIDE // 2, groups=4), SIDE + 2),
    "an average over a part": (nn.AvgPool2d(5, stride=1, padding=2), 7),
}


@pytest.mark.parametrize(("head", "size"), LOCAL.values(), ids=LOCAL)
def test_what_is_not_over_the_full_extent_is_not_global(head, size):
    found = field(head)
    assert not found.is_global
    assert found.reason is None
    assert found.size == (size, size)


def test_a_depthwise_convolution_over_the_whole_map_is_a_window_and_not_global():
    found = field(nn.Conv2d(4, 4, SIDE, groups=4))
    assert not found.is_global
    assert found.size == (SIDE + 2, SIDE + 2)
    assert found.padding == (1, 1)


def test_an_image_branch_leaves_the_local_field_of_the_others():
    found = field(ImageBranch())
    assert found.is_global
    assert found.reason == "`pool` in `head` (mean)"
    assert found.local.size == (7, 7)


def test_attention_alone_sees_its_own_query_besides_all_keys_and_values():
    found = field(Attention(residual=False))
    assert found.is_global
    assert found.window == ((0, SIDE - 1),) * 2
    assert found.local.size == (3, 3)


def test_a_pooled_map_sees_constants_only():
    found = field(nn.AdaptiveAvgPool2d(1))
    assert found.is_global
    assert found.local.size == (0, 0)


def test_strips_are_global_along_one_axis_only():
    """Coordinate attention: each axis by itself is averaged over the other."""
    found = field(lambda x: x * x.mean(2, keepdim=True).sigmoid())
    assert found.because[1] is None
    assert found.window[1] == (6, 8)
    assert found.window[0] == (0, SIDE - 1)
    assert found.local.size == (3, 3)


def test_of_a_picture_and_words_the_network_is_the_pictures():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
            self.words, self.head = nn.Embedding(10, 8), nn.Linear(16, 4)

        def forward(self, image, tokens):
            both = [self.convs(image).mean((2, 3)), self.words(tokens).mean(1)]
            return self.head(torch.cat(both, 1))

    inputs = torch.rand(2, 3, 32, 32), torch.randint(10, (2, 5))
    network = archcost.analyze(Both().eval(), inputs).fields.network
    assert (network.input_index, network.size) == (0, (5, 5))
