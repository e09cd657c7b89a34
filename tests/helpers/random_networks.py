"""Random networks of every kind of layer, drawn from a seed."""

import random

import torch
import torch.nn.functional as F
from torch import nn


class Step(nn.Module):
    """A function of a tensor, and the modules that it calls."""

    def __init__(self, text, function, *parts):
        super().__init__()
        self.text, self.function, self.parts = text, function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)

    def extra_repr(self):
        return self.text


KINDS = []


def kind(layer):
    """Register a function (Builder, shape of the input) -> Step, or None where the shape does not suit it."""
    KINDS.append(layer)
    return layer


class Builder:
    """Draws networks; ``smooth`` ones have derivatives everywhere, the others take NaN unchanged."""

    def __init__(self, seed, smooth, kinds=None):
        self.rng = random.Random(seed)
        self.smooth, self.kinds = smooth, kinds or KINDS
        self.axes = self.rng.choice([1, 2, 2, 2, 2, 3])
        self.most = {1: 48, 2: 32, 3: 12}[self.axes]
        low, high = {1: (6, 30), 2: (6, 20), 3: (4, 8)}[self.axes]
        self.shape = (1, self.rng.randint(1, 4), *self.rng.sample(range(low, high), self.axes))

    def int(self, low, high):
        return self.rng.randint(low, max(low, high))

    def ints(self, low, high):
        """One number for each axis."""
        return tuple(self.int(low, high) for _ in range(self.axes))

    def maybe(self, chance=0.5):
        return self.rng.random() < chance

    def one(self, *values):
        return self.rng.choice(values)

    def pick(self, family):
        """The class or function of this many axes, as in nn.Conv{}d."""
        return family[self.axes - 1]

    def network(self, shape, steps):
        """A sequence of random steps, and the shape that comes out."""
        made = []
        for _ in range(9 * steps):  # what does not fit is drawn again
            if len(made) == steps:
                break
            step = self.rng.choice(self.kinds)(self, shape)
            found = step and self.fits(step, shape)
            if found:
                made.append(step)
                shape = found
        return nn.Sequential(*made), shape

    def path(self, shape, steps):
        """A network inside a network, which holds no further one."""
        outer, self.kinds = self.kinds, [k for k in KINDS if k not in (branches, u_net)]
        made = self.network(shape, steps)
        self.kinds = outer
        return made

    def fits(self, step, shape):
        """The shape of its output; None where it cannot take the input, or makes too much of it."""
        try:
            with torch.no_grad():
                out = step(torch.full(shape, 0.5))
        except (RuntimeError, ValueError):
            return None
        small = out.numel() > 0 and out.shape[1] <= 12 and max(out.shape[2:]) <= self.most
        return tuple(out.shape) if small and out.isfinite().all() else None

    def mixer(self, channels, out):
        """A convolution of size 1."""
        return self.pick(CONVOLUTIONS)(channels, out, 1)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_MAX = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
ADAPTIVE_AVERAGE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def spatial(x):
    return tuple(range(2, x.dim()))


def along(dim, part):
    """An index that takes ``part`` of one dimension and all of the others before it."""
    return (slice(None),) * dim + (part,)


def cropped(tensors):
    """Their centres, of the size of the smallest."""
    for dim in spatial(tensors[0]):
        size = min(t.shape[dim] for t in tensors)
        tensors = [t.narrow(dim, (t.shape[dim] - size) // 2, size) for t in tensors]
    return tensors


def sheared(x):
    """Every channel moved on by its number, so that they depend on different rows."""
    return torch.cat([x[:, c : c + 1].roll(c, 2) for c in range(x.shape[1])], 1)


@kind
def convolution(g, shape):
    groups = g.rng.choice([n for n in range(1, shape[1] + 1) if shape[1] % n == 0])
    out = groups * g.int(1, 6 // groups)
    kernel, dilation = g.ints(1, 5), g.ints(1, 2)
    if g.maybe(0.2):
        layer = g.pick(CONVOLUTIONS)(shape[1], out, kernel, 1, "same", dilation, groups)
    else:
        padding = tuple(g.int(0, k) for k in kernel)
        mode = g.one("zeros", "zeros", "reflect", "replicate", "circular")
        layer = g.pick(CONVOLUTIONS)(
            shape[1], out, kernel, g.ints(1, 3), padding, dilation, groups, padding_mode=mode
        )
    return Step(str(layer), lambda x, layer: layer(x), layer)


@kind
def transposed_convolution(g, shape):
    groups = g.one(1, shape[1])
    stride, dilation = g.ints(1, 4), g.ints(1, 2)
    extra = tuple(g.int(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    layer = g.pick(TRANSPOSED)(
        *(shape[1], groups * g.int(1, 3), g.ints(1, 4), stride, g.ints(0, 2), extra, groups),
        dilation=dilation,
    )
    return Step(str(layer), lambda x, layer: layer(x), layer)


@kind
def pooling(g, shape):
    kernel = g.ints(1, 4)
    stride, padding = g.ints(1, 3), tuple(g.int(0, k // 2) for k in kernel)
    if g.smooth or g.maybe():
        layer = g.pick(AVERAGE_POOLS)(kernel, stride, padding, g.maybe(), g.maybe())
    else:
        layer = g.pick(MAX_POOLS)(kernel, stride, padding, g.ints(1, 2), ceil_mode=g.maybe())
    return Step(str(layer), lambda x, layer: layer(x), layer)


@kind
def adaptive_pooling(g, shape):
    layer = g.pick(ADAPTIVE_AVERAGE if g.smooth or g.maybe() else ADAPTIVE_MAX)(
        tuple(g.int(1, n + 2) for n in shape[2:])
    )
    return Step(str(layer), lambda x, layer: layer(x), layer)


@kind
def padding(g, shape):
    mode = g.one("constant", "reflect", "replicate", "circular")
    low = -2 if mode == "constant" else 0
    pads = [g.int(low, 4) for _ in range(2 * g.axes)]
    value = 0.5 if mode == "constant" else None
    return Step(f"pad {pads} {mode}", lambda x: F.pad(x, pads, mode, value))


@kind
def resizing(g, shape):
    smooth = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[g.axes] if g.smooth else []
    mode = g.one("nearest", "nearest-exact", *smooth, *smooth)
    options = {"mode": mode}
    if mode in smooth:
        options["align_corners"] = g.maybe()
    low = 1
    if g.axes == 2 and mode in smooth and g.maybe(0.3):
        options["antialias"] = True
        low = 2  # the framework reads the wrong rows where the result is one column wide
    if g.maybe():
        options["size"] = tuple(g.int(low, 2 * n) for n in shape[2:])
    else:
        options["scale_factor"] = tuple(
            g.one(2, 2, 3, 0.5, 1.5, 0.75, round(g.rng.uniform(0.3, 2.2), 2)) if n > 5 else g.int(low, 3)
            for n in shape[2:]
        )
        options["recompute_scale_factor"] = g.one(None, True)
    return Step(f"interpolate {options}", lambda x: F.interpolate(x, **options))


@kind
def pixel_shuffle(g, shape):
    r = g.int(2, 3)
    if g.axes != 2:
        return Step(
            f"shuffle {r} along the last axis",
            lambda x: sheared(torch.cat([x] * r, 1)).unflatten(1, (-1, r)).movedim(2, -1).flatten(-2),
        )
    if g.maybe():
        return Step(
            f"pixel shuffle {r}", lambda x: F.pixel_shuffle(sheared(x.repeat_interleave(r * r, 1)), r)
        )
    return Step(
        f"pixel unshuffle {r}",
        lambda x: F.pixel_unshuffle(x[:, :1, : x.shape[2] // r * r, : x.shape[3] // r * r], r),
    )


@kind
def channel_shuffle(g, shape):
    groups = g.rng.choice([n for n in range(1, shape[1] + 1) if shape[1] % n == 0])
    if g.axes == 2 and g.maybe():
        return Step(f"F.channel_shuffle {groups}", lambda x: F.channel_shuffle(sheared(x), groups))
    return Step(
        f"channel shuffle {groups}",
        lambda x: sheared(x).unflatten(1, (groups, -1)).transpose(1, 2).reshape(x.shape),
    )


@kind
def rolling(g, shape):
    dims = g.rng.sample(range(1, len(shape)), g.int(1, len(shape) - 1))
    shifts = [g.int(-3, 3) for _ in dims]
    return Step(f"roll {shifts} along {dims}", lambda x: x.roll(shifts, dims))


@kind
def slicing(g, shape):
    dim = g.int(1, len(shape) - 1)
    start = g.int(0, shape[dim] // 3)
    stop, step = g.int(start + 1, shape[dim]), g.int(1, 3)
    return Step(f"[{start}:{stop}:{step}] of dim {dim}", lambda x: x[along(dim, slice(start, stop, step))])


@kind
def flipping(g, shape):
    dims = g.rng.sample(range(1, len(shape)), g.int(1, 2))
    return Step(f"flip {dims}", lambda x: x.flip(dims))


@kind
def turning(g, shape):
    order = [0, 1, *g.rng.sample(range(2, len(shape)), g.axes)]
    return Step(f"permute {order}", lambda x: x.permute(order))


@kind
def repeating(g, shape):
    dim, times = g.int(1, len(shape) - 1), g.int(2, 3)
    if g.maybe():
        return Step(f"repeat_interleave {times} along {dim}", lambda x: x.repeat_interleave(times, dim))
    tiles = [times if d == dim else 1 for d in range(len(shape))]
    return Step(f"repeat {tiles}", lambda x: x.repeat(tiles))


@kind
def pointwise(g, shape):
    if g.smooth:
        return Step("times two", lambda x: 2 * x)
    function = g.one(F.relu, F.silu, torch.sigmoid, F.hardswish, torch.tanh)
    return Step(function.__name__, lambda x: function(x))


@kind
def normalisation(g, shape):
    if g.smooth:
        return Step("divided by its mean", lambda x: x / (1 + x.mean(spatial(x), keepdim=True)))
    groups = g.one(1, shape[1])
    if g.maybe():
        return Step(f"group norm {groups}", lambda x: F.group_norm(x, groups))
    return Step(
        "layer norm of the channels", lambda x: F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)
    )


@kind
def gate(g, shape):
    def gated(x, mixer):
        weight = mixer(x.mean(spatial(x), keepdim=True))
        return x * (weight if g.smooth else weight.sigmoid())

    return Step("squeeze and excitation", gated, g.mixer(shape[1], shape[1]))


@kind
def global_context(g, shape):
    dims = g.rng.sample(range(2, len(shape)), g.int(1, g.axes))
    return Step(f"plus its mean over {dims}", lambda x: x + x.mean(dims, keepdim=True))


@kind
def causal(g, shape):
    dim = g.int(2, len(shape) - 1)
    return Step(f"cumsum {dim}", lambda x: x.cumsum(dim) / x.shape[dim])


@kind
def written_into_a_frame(g, shape):
    low, high = g.ints(0, 2), g.ints(0, 2)
    sizes = [n + a + b for n, a, b in zip(shape[2:], low, high, strict=True)]
    box = tuple(slice(a, a + n) for n, a in zip(shape[2:], low, strict=True))

    def write(x):
        frame = x.new_full((*x.shape[:2], *sizes), 0.5)
        frame[(slice(None), slice(None), *box)] = x
        return frame

    return Step(f"written into a frame, {low} before and {high} after", write)


@kind
def written_into_a_slice(g, shape):
    dim, other, step = g.int(1, len(shape) - 1), g.int(2, len(shape) - 1), g.int(1, 3)
    how = g.one("add", "copy", "turned")
    size = {dim: shape[dim], **({1: shape[other], other: shape[1]} if how == "turned" else {})}[dim]
    start = g.int(0, size - 1)
    part = slice(start, g.int(start, size), step)

    def write(x):
        y = x.clone()
        to = (y.transpose(1, other) if how == "turned" else y)[along(dim, part)]
        source = (x.transpose(1, other) if how == "turned" else x)[along(dim, part)].flip(other)
        if how == "copy":
            to.copy_(source)
        else:
            to += source
        return y

    return Step(f"{how} into {part} of dim {dim}, flipped along {other}", write)


@kind
def written_into_a_row(g, shape):
    dim = g.int(1, len(shape) - 1)
    to, source = g.int(-shape[dim], shape[dim] - 1), g.int(-shape[dim], shape[dim] - 1)

    def write(x):
        y = x.clone()
        y[along(dim, to)] = 2 * y[along(dim, source)]
        return y

    return Step(f"[{source}] written to [{to}] of dim {dim}", write)


@kind
def unfolded(g, shape):
    dim, size, step = g.int(2, len(shape) - 1), g.int(1, 4), g.int(1, 3)
    return Step(f"unfold {dim, size, step}", lambda x: x.unfold(dim, size, step).mean(-1))


@kind
def im2col(g, shape):
    if g.axes != 2:
        return unfolded(g, shape)
    kernel, dilation, pad, stride = g.ints(1, 3), g.ints(1, 2), g.ints(0, 2), g.ints(1, 3)

    def there_and_back(x):
        columns = F.unfold(x, kernel, dilation, pad, stride)
        return F.fold(2 * columns.roll(1, 2), x.shape[2:], kernel, dilation, pad, stride) + 0.5

    return Step(f"unfold and fold {kernel, dilation, pad, stride}", there_and_back)


@kind
def shared(g, shape):
    layer = g.pick(CONVOLUTIONS)(shape[1], shape[1], g.ints(1, 3), padding=g.int(0, 1))
    if g.maybe():
        return Step(f"twice {layer}", lambda x, layer: layer(layer(x)), layer)
    return Step(f"{layer} of it and its mirror", lambda x, layer: layer(x) + layer(x.flip(2)), layer)


@kind
def loop(g, shape):
    kernel, times = 2 * g.int(0, 1) + 1, g.int(2, 3)
    layer = g.pick(CONVOLUTIONS)(shape[1], shape[1], kernel, padding=kernel // 2)

    def again(x, layer):
        for _ in range(times):
            x = x + layer(x)
        return x

    return Step(f"{times} times {layer}", again, layer)


@kind
def branches(g, shape):
    paths = []
    for _ in range(g.int(2, 3)):
        path, out = g.path(shape, g.int(0, 2))
        path.append(g.mixer(out[1], shape[1]))
        paths.append(path)
    how = g.one("add", "cat", "multiply", "stack")

    def join(x, *paths):
        parts = cropped([path(x) for path in paths])
        if how == "cat":
            return torch.cat(parts, 1)
        if how == "stack":
            return torch.stack(parts, 2).mean(2)
        whole = parts[0]
        for part in parts[1:]:
            whole = whole + part if how == "add" else whole * part
        return whole

    return Step(f"{how} branches", join, *paths)


@kind
def beside_one_another(g, shape):
    dim = g.int(2, len(shape) - 1)
    a, b = g.int(1, shape[dim]), g.int(1, shape[dim])
    return Step(
        f"cat along {dim}",
        lambda x, layer: torch.cat([x.narrow(dim, 0, a), layer(x).narrow(dim, 0, b)], dim),
        g.pick(CONVOLUTIONS)(shape[1], shape[1], 3, padding=1),
    )


@kind
def u_net(g, shape):
    c = shape[1]
    down = g.pick(CONVOLUTIONS)(c, c, g.int(2, 3), stride=2, padding=g.int(0, 1))
    up = g.pick(TRANSPOSED)(c, c, g.int(1, 3), stride=2)
    low = g.fits(down, shape)
    if low is None:
        return None
    inner, out = g.path(low, g.int(0, 2))
    return Step(
        "U-Net",
        lambda x, down, inner, back, up: torch.cat(cropped([x, up(back(inner(down(x))))]), 1),
        *(down, inner, g.mixer(out[1], c), up),
    )


def draw(seed, smooth, kinds=None):
    """A random network in float64, with positive weights that keep the size of what passes."""
    torch.manual_seed(seed)
    builder = Builder(seed, smooth, kinds)
    model, _ = builder.network(builder.shape, builder.int(2, 6))
    model.insert(0, Step("every channel moved on", sheared))
    with torch.no_grad():
        for weight in model.double().parameters():
            weight.uniform_(0.5, 1.5).div_(max(1, weight[0].numel()))
    return model.eval(), builder.shape
