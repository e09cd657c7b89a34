"""Random small convolutional networks of the blocks that the engine's passes look for, drawn from a seed."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from helpers.graphs import settled
from helpers.random_networks import Step

ACTIVATIONS = (
    *(F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, torch.sigmoid, F.gelu, torch.tanh, F.softplus),
    *(lambda x: F.leaky_relu(x, 0.2), F.elu, F.mish, lambda x: x.clamp(-0.2, 0.7), lambda x: x),
)
CHANNELS = (3, 5, 8, 16, 17, 24, 32, 40)


def named(name, **more):
    return f"{name} {more}" if more else name


class Draws:
    """Draws the blocks of one network."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.steps, self.channels = [], self.rng.choice((1, 3, 4, 16))
        self.shape = (self.rng.choice((1, 1, 2)), self.channels, *self.rng.choices(range(5, 15), k=2))

    def maybe(self, chance=0.5):
        return self.rng.random() < chance

    def one(self, *values):
        return self.rng.choice(values)

    def act(self):
        return self.rng.choice(ACTIVATIONS)

    def conv(self, ins, outs, kernel=None, stride=1, groups=1):
        kernel = kernel or self.one(1, 1, 3, 3, 5, (1, 3))
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(k // 2 for k in taps)
        layer = nn.Conv2d(ins, outs, taps, stride, padding, groups=groups, bias=self.maybe())
        return nn.Sequential(layer, nn.BatchNorm2d(outs)) if self.maybe(0.6) else layer

    def network(self, blocks):
        steps = [self.rng.choice(BLOCKS)(self) for _ in range(blocks)]
        steps.append(self.rng.choice(HEADS)(self))
        return settled(nn.Sequential(*steps))


def block(stride=1):
    """A convolution, in place of whatever would have been drawn."""

    def draw(g):
        ins, outs, act = g.channels, g.one(*CHANNELS), g.act()
        g.channels = outs
        groups = 1
        if g.maybe(0.3):
            groups = ins
            outs = g.channels = ins * g.one(1, 1, 2)
        elif ins % 4 == 0 and outs % 4 == 0 and g.maybe(0.2):
            groups = g.one(2, 4)
        layer = g.conv(ins, outs, stride=stride, groups=groups)
        return Step(named("conv"), lambda x, layer: act(layer(x)), layer)

    return draw


def before(g):
    """A norm and an activation function in front of a convolution."""
    ins, g.channels = g.channels, g.one(*CHANNELS)
    act = g.one(F.relu, F.relu, F.silu)
    return Step(
        "pre-activation", lambda x, n, c: c(act(n(x))), nn.BatchNorm2d(ins), g.conv(ins, g.channels, g.one(1, 3))
    )


def residual(g):
    c, inner, act, last = g.channels, g.one(*CHANNELS), g.act(), g.act()
    a, b = g.conv(c, inner), g.conv(inner, c)
    if g.maybe():
        return Step("residual", lambda x, a, b: last(x + b(act(a(x)))), a, b)
    return Step("residual of a sum", lambda x, a, b: last(b(act(a(x))) + a(x).mean() + x), a, b)


def branches(g):
    ins, one, two = g.channels, g.one(*CHANNELS), g.one(*CHANNELS)
    act = g.act()
    g.channels = one + two + ins
    a, b = g.conv(ins, one), g.conv(ins, two)
    return Step(
        "branches", lambda x, a, b: torch.cat([act(a(x)), b(x), F.max_pool2d(x, 3, 1, 1)], 1), a, b
    )


def dense(g):
    ins, growth = g.channels, g.one(5, 8, 16)
    first, second = g.conv(ins, growth, 3), g.conv(ins + growth, growth, 1)
    norms = nn.BatchNorm2d(ins), nn.BatchNorm2d(ins + growth)
    g.channels = ins + 2 * growth

    def forward(x, first, second, one, two):
        x = torch.cat([x, first(one(x).relu())], 1)
        return torch.cat([x, second(two(x).relu())], 1)

    return Step("dense", forward, first, second, *norms)


def shuffle(g):
    if g.channels % 2:
        return block()(g)
    half, act = g.channels // 2, g.act()
    a, b = g.conv(half, half, 1), g.conv(half, half, 3, groups=half)

    def forward(x, a, b):
        kept, x = x.chunk(2, 1)
        return F.channel_shuffle(torch.cat([kept, act(b(a(x)))], 1), 2)

    return Step("shuffle", forward, a, b)


def gate(ins):
    inner = max(1, ins // 4)
    return nn.Conv2d(ins, inner, 1), nn.Conv2d(inner, ins, 1)


def gated(x, act, to, down, up):
    return x * to(up(act(down(F.adaptive_avg_pool2d(x, 1)))))


def inverted(g):
    ins, wide, stride = g.channels, g.channels * g.one(2, 3), g.one(1, 1, 2)
    outs = ins if stride == 1 and g.maybe() else g.one(*CHANNELS)
    g.channels = outs
    act, to, squeezed = g.one(F.relu6, F.silu, F.hardswish), g.one(torch.sigmoid, F.hardsigmoid), g.maybe()
    parts = (
        *(g.conv(ins, wide, 1), g.conv(wide, wide, g.one(3, 5), stride, wide), g.conv(wide, outs, 1)),
        *(gate(wide) if squeezed else ()),
    )
    added = outs == ins and stride == 1 and g.maybe(0.8)

    def forward(x, expand, depthwise, project, *squeeze):
        y = act(depthwise(act(expand(x))))
        y = project(gated(y, F.relu, to, *squeeze) if squeeze else y)
        return x + y if added else y

    return Step(f"inverted residual, squeezed {squeezed}, added {added}", forward, *parts)


def squeeze(g):
    act, to = g.act(), g.one(torch.sigmoid, F.hardsigmoid)
    return Step("squeeze", lambda x, *parts: gated(x, act, to, *parts), *gate(g.channels))


def pool(g):
    return g.one(
        nn.MaxPool2d(2, ceil_mode=g.maybe()),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=g.maybe()),
        nn.AvgPool2d(2, 2, 1, ceil_mode=g.maybe()),
        nn.Upsample(scale_factor=2, mode=g.one("nearest", "bilinear")),
    )


def mixed(g):
    """What ConvNeXt has behind its depthwise convolution."""
    c = g.channels
    act, added = g.one(F.gelu, F.gelu, torch.sigmoid, F.relu), g.maybe()
    factors = nn.Conv2d(c, c, 1, bias=False)  # for its weight

    def forward(x, depthwise, norm, up, down, factors):
        y = down(act(up(norm(depthwise(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        y = y * factors.weight[:, :1, 0, 0][:, :, None]
        return x + y if added else y

    parts = g.conv(c, c, 3, groups=c), nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c), factors
    return Step("mixed", forward, *parts)


FUNCTIONS = {
    "2x+0.3": lambda x: 2 * x + 0.3,
    "1-sigmoid": lambda x: 1 - x.sigmoid(),
    "1/(x²+1)": lambda x: 1 / (x * x + 1),
    "x sigmoid(x)": lambda x: x * x.sigmoid(),
    "x-mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "channels": lambda x: x * torch.arange(x.shape[1], dtype=x.dtype).view(-1, 1, 1) * 0.125,
    "columns": lambda x: x + torch.arange(x.shape[3], dtype=x.dtype) * 0.125,
    "flip": lambda x: x.flip(2),
    "padded": lambda x: F.pad(x, (1, 0, 0, 1), value=0.5),
    "odd": lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1),
    "reversed": lambda x: torch.cat(x.split(5, 1)[::-1], 1),
    "softmax": lambda x: x.softmax(1),
    "twice": lambda x: torch.cat([x, x], 1)[:, x.shape[1] // 2 : -(x.shape[1] // 2) or None][:, : x.shape[1]],
}


def function(g):
    name = g.rng.choice([*FUNCTIONS])
    if name == "twice" and g.channels % 2:
        name = "flip"
    return Step(name, FUNCTIONS[name])


def classifier(g):
    act, inner = g.act(), g.one(8, 19)
    parts = nn.Linear(g.channels, inner), nn.Linear(inner, 7)
    flat = g.one(lambda x: x.mean((2, 3)), lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))
    return Step("classifier", lambda x, a, b: b(act(a(flat(x)))), *parts)


def features(g):
    act, layer = g.act(), g.conv(g.channels, 7, 1)
    return Step("features", lambda x, layer: (x, act(layer(x)), {"mean": x.mean((2, 3)), "same": x}), layer)


def attended(g):
    attend = nn.MultiheadAttention(g.channels, 1, batch_first=True)

    def forward(x, attend, norm):
        x = norm(x.flatten(2).transpose(1, 2))
        return (x + attend(x, x, x, need_weights=False)[0]).mean(1)

    return Step("attended", forward, attend, nn.LayerNorm(g.channels))


BLOCKS = (
    *(block(), block(), block(2), before, residual, branches, dense, shuffle, inverted, inverted, squeeze),
    *(pool, mixed, function, function),
)
HEADS = (classifier, features, attended)


def random_cnn(seed, blocks=4):
    """A network in evaluation, and an input of it."""
    torch.manual_seed(seed)
    draws = Draws(seed)
    return draws.network(blocks), torch.randn(draws.shape)
