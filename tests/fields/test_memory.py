"""What lies in memory: writes through views, aliases and ``out=``, at every element as in the model."""

import pytest
import torch
import torch.nn.functional as F

import archcost
from helpers.calls import Call
from helpers.dependence import cases, disagreements, reals

X = reals(2, 4, 5, 6)


def out_add(x):
    y = torch.empty_like(x)
    torch.add(x, 1, out=y)
    return y


def out_untagged(x):
    y = torch.zeros_like(x)
    torch.abs(x, out=y)
    return torch.hypot(x, y.flip(2), out=torch.empty_like(x))


def out_over(x):
    y = x.flip(2).clone()
    torch.mul(x, 2, out=y)
    return y


def out_max(x):
    v = torch.empty(2, 4, 6, dtype=x.dtype, device=x.device)
    i = torch.empty(2, 4, 6, dtype=torch.long, device=x.device)
    torch.max(x, 2, out=(v, i))
    return v


def out_cat(x):
    y = torch.empty(2, 8, 5, 6, dtype=x.dtype, device=x.device)
    torch.cat([x, x.flip(2)], 1, out=y)
    return y


def out_mm(x):
    y = torch.zeros(5, 5, dtype=x.dtype, device=x.device)
    torch.mm(x[0, 0], x[0, 1].T, out=y)
    return y


def out_slice(x):
    y = torch.zeros(2, 4, 5, 12, dtype=x.dtype, device=x.device)
    torch.add(x, 1, out=y[..., 6:])
    return y


def stale(x):
    y = torch.zeros_like(x)
    v = y[:, :, 1:3]
    w = y.view(-1)
    y.copy_(x)
    v.mul_(2)
    v2 = v.roll(1, 3)
    y.zero_()
    return v2, v + 0, w + 0


def view_then_write(x):
    y = x.clone()
    v = y[:, :, :2]
    y[:, :, 0].copy_(x[:, :, 4])
    return v * 1


def inplace_view(x):
    y = x.clone()
    y[:, :, 1:3].add_(x[:, :, 3:5])
    return y


def shift(x):
    y = torch.zeros_like(x)
    y[:, :1, 1:] = x[:, :1, :-1]
    y[:, 1:2, :-1] = x[:, 1:2, 1:]
    y[:, 2:] = x[:, 2:]
    return y


def tshift(x):
    y = x.clone()
    y[..., ::2] = x[..., 1::2]
    return y


def circ(x):
    return F.pad(x, (1, 2, 2, 1), mode="circular")


def circ_hand(x):
    y = x.new_zeros(2, 4, 7, 6)
    y[:, :, 1:-1] = x
    y[:, :, 0] = y[:, :, -2]
    y[:, :, -1] = y[:, :, 1]
    return y


def perm_write(x):
    y = x.new_zeros(2, 5, 6, 4)
    y.permute(0, 3, 1, 2).copy_(x)
    return y


def flat_write(x):
    y = torch.zeros_like(x)
    y.view(2, -1)[:, 7:50].copy_(x.flatten(1)[:, :43])
    return y


def diag_write(x):
    y = x.clone()
    y.diagonal(dim1=2, dim2=3).zero_()
    return y


def expand_read(x):
    y = x[:, :, :1].clone()
    e = y.expand(2, 4, 5, 6)
    y.add_(x[:, :, 4:])
    return e + 0


def overwrite_const(x):
    y = x.clone()
    y[:, :, 2:4] = 0
    return y


def swap(x):
    y = x.clone()
    a = y[:, :, 0].clone()
    y[:, :, 0] = y[:, :, 4]
    y[:, :, 4] = a
    return y


def set_(x):
    y = x.clone()
    y.unsqueeze_(0).squeeze_(0).transpose_(2, 3)
    return y


def detach(x):
    y = x.detach()
    z = y.clone()
    z[0].fill_(1.0)
    return z


def loop(x):
    y = x.clone()
    for i in range(1, 5):
        y[:, :, i] = y[:, :, i] + y[:, :, i - 1]
    return y


def resized(x):
    y = torch.empty(0, dtype=x.dtype, device=x.device)
    torch.add(x, 1, out=y)
    return y


def inmodel(x):
    x[:, :, 0] = x[:, :, 1]
    return x * 1


def unfoldw(x):
    y = x.clone()
    y.unfold(2, 2, 2).mul_(x.unfold(2, 2, 2).flip(2))
    return y


def chan_last(x):
    y = x.contiguous(memory_format=torch.channels_last).clone()
    y[:, :, 1] = y[:, :, 3]
    return y, y.permute(0, 2, 3, 1).reshape(2, -1)


def strided(x):
    y = x.clone()
    y.as_strided((2, 3), (120, 7), 3).copy_(x[:, 0, 4, :3])
    return y


def masked(x):
    y = x.clone()
    y.masked_fill_(x > 0, 0.0)
    return y


def halves(x):
    y = x.clone()
    a, b = y.chunk(2, 1)
    a.add_(b.flip(2))
    return y


def uni(x):
    y = x.clone()
    for i, p in enumerate(y.unbind(2)):
        p.mul_(i + 1).add_(x[:, :, -1 - i])
    return y


def complex_parts(x):
    z = torch.complex(x, x.flip(2))
    z.real.mul_(2)
    r = torch.view_as_real(z)
    r[..., 1].zero_()
    return z.abs()


CASES = {
    "out": (out_add, X),
    "out of what is only tagged in its other form": (out_untagged, X),
    "out over what was there": (out_over, X),
    "out of two": (out_max, X),
    "out of a cat": (out_cat, X),
    "out of a product": (out_mm, X),
    "out into a slice": (out_slice, X),
    "out that is resized": (resized, X),
    "a view kept, its base overwritten": (stale, X),
    "a view made before the write": (view_then_write, X),
    "in place on a view": (inplace_view, X),
    "shifted by slices of zeros": (shift, X),
    "every other column": (tshift, X),
    "circular padding": (circ, X),
    "circular padding by hand": (circ_hand, X),
    "copied into a permuted view": (perm_write, X),
    "copied into a flat view": (flat_write, X),
    "a diagonal set to zero": (diag_write, X),
    "an expanded view of what changes": (expand_read, X),
    "a slice set to a constant": (overwrite_const, X),
    "two rows swapped": (swap, X),
    "shapes changed in place": (set_, X),
    "detached": (detach, X),
    "a running sum by hand": (loop, X),
    "the input itself written": (inmodel, X),
    "written through unfolded windows": (unfoldw, X),
    "channels last": (chan_last, X),
    "written through as_strided": (strided, X),
    "masked in place": (masked, X),
    "one chunk added to in place": (halves, X),
    "each of the unbound views": (uni, X),
}


@pytest.mark.parametrize("case", cases({"memory": CASES}))
def test_a_read_sees_what_was_last_written_there(case):
    assert disagreements(case) == []


def test_halves_of_complex_numbers_are_at_least_covered():
    assert disagreements((complex_parts, X), exact=False) == []


# What varies from channel to channel is no axis


def folded_into_channels(x):
    b = x.shape[0]
    u = F.unfold(x, 3).view(b, 9, 18, 18)
    kernel = torch.ones(b * 9, 1, 3, 3, device=x.device)
    return F.conv2d(u.reshape(1, b * 9, 18, 18), kernel, groups=b * 9).view(b, 9, 16, 16)


def windows_as_channels(x):
    taps = x.as_strided((x.shape[0], 3, 3, 18, 18), (400, 20, 1, 20, 1))
    return F.conv2d(taps.reshape(1, -1, 18, 18), torch.ones(1, 9 * x.shape[0], 3, 3, device=x.device))


def shifted_into_channels(x):
    out = torch.zeros(x.shape[0], 5, 16, 16, device=x.device)
    for i in range(5):
        out[:, i] = x[:, 0, i : i + 16, i : i + 16]
    return out


def stacked_as_channels(x):
    return torch.stack([x[:, 0, i : i + 16, i : i + 16] for i in range(5)], 1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "function", [folded_into_channels, windows_as_channels, shifted_into_channels, stacked_as_channels]
)
def test_shifted_copies_in_channels_are_no_positions_whatever_the_batch(function, batch):
    field = archcost.receptive_field(Call(function), torch.rand(batch, 1, 20, 20), layer="", verify=True)
    assert field.position == (8, 8)
    assert field.size == (5, 5)
    assert field.stride == (1, 1)
    assert field.padding == (0, 0)


def test_rows_that_are_written_one_by_one_are_positions():
    def rows(x):
        out = torch.zeros_like(x)
        for i in range(20):
            out[:, :, i] = 2 * x[:, :, i]
        return out

    field = archcost.receptive_field(Call(rows), torch.rand(2, 1, 20, 20), layer="")
    assert (field.position, field.size, field.stride) == ((10, 10), (1, 1), (1, 1))
