"""Every dependence rule is held against the model itself, at every element: moving, picking, pointwise.

Each index of each dimension of the inputs is changed in the real model, and what changes is noted. The
rules must say just that; those in WIDER, or under a test that says so, at least that.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from helpers.calls import Call
from helpers.dependence import cases, disagreements, reals, wholes

X = reals(2, 4, 5, 6)
TABLE = reals(5, 4)
TOKENS = wholes(7, 2, 5)
INDEX = wholes(5, 3)
PLACES = wholes(5, 2, 4, 3, 6)
BOUNDS = TABLE.sort()[0]
KERNEL = reals(3, 4, 3, 3)
BOXES = torch.tensor([[0, 0, 0, 3, 3], [1, 1, 1, 4, 4]]).double()


def assigned(x):
    y = torch.zeros_like(x)
    y[:, :, INDEX] = x[:, :, :3]
    y[y > 1] = 0
    return y


def _added_in_place(one, other):
    torch._foreach_add_(one, other)
    return one


def weighted(bag):
    return Call(lambda tokens, weights: bag(tokens, None, weights), bag)


SHAPES = {
    "roll": (lambda x: x.roll(2, 2), X),
    "roll of two": (lambda x: x.roll((1, -2), (2, 3)), X),
    "roll of all": (lambda x: x.roll(3), X),
    "flip": (lambda x: x.flip(1, -1), X),
    "rot90": (lambda x: (x.rot90(1, (2, 3)), x.rot90(-1, (1, 3)), x.rot90(2, (3, 2))), X),
    "repeat": (lambda x: (x.repeat(1, 2, 1, 3), x.repeat(2, 1, 1, 1, 1)), X),
    "tile": (lambda x: x.tile(2, 3), X),
    "repeat_interleave": (lambda x: (x.repeat_interleave(2, 2), x.repeat_interleave(2)), X),
    "expand": (lambda x: x[:, :1].expand(-1, 3, -1, -1) * 2, X),
    "expand_as, new dimension": (lambda x: x[None].expand(3, *x.shape) + 1, X),
    "stack": (lambda a, b: (torch.stack([a, b]), torch.stack([a, b], -1)), X, X + 1),
    "cat": (lambda a, b: (torch.cat([a, b]), torch.cat([a, b[:, :2]], 1), torch.cat([a, a], -1)), X, X + 1),
    "cat with constants": (lambda x: torch.cat([x, torch.ones_like(x)], 2), X),
    "split, chunk": (lambda x: (*x.split(2, 2), *x.chunk(2, -1), *x.split([1, 3], 1)), X),
    "tensor_split": (lambda x: x.tensor_split((2, 3), 2), X),
    "unbind": (lambda x: x.unbind(2), X),
    "slices": (lambda x: (x[:, 1:, ::2, -3:], x[..., 0], x[1]), X),
    "narrow, select": (lambda x: (x.narrow(2, 1, 3), x.select(3, -1)), X),
    "Tensor.unfold": (lambda x: (x.unfold(2, 3, 2), x.unfold(-1, 2, 1).unfold(2, 2, 2)), X),
    "unfold, and back": (
        lambda x: torch.ops.aten.unfold_backward(x.unfold(2, 3, 2) * 2.0, list(x.shape), 2, 3, 2),
        X,
    ),
    "unfold, and back over gaps": (
        lambda x: torch.ops.aten.unfold_backward(x.unfold(-1, 1, 2) * 2.0, list(x.shape), 3, 1, 2),
        X,
    ),
    "F.unfold": (lambda x: F.unfold(x, 3, dilation=2, padding=1, stride=2), X),
    "F.unfold, other sizes": (lambda x: F.unfold(x, (2, 3), padding=(1, 0), stride=(2, 1)), X),
    "F.fold": (lambda x: F.fold(x, (4, 5), (2, 2), stride=1), reals(2, 8, 12)),
    "F.fold after F.unfold": (lambda x: F.fold(F.unfold(x, 3, padding=1), (5, 6), 3, padding=1), X),
    "movedim": (lambda x: (x.movedim(1, -1), x.movedim((0, 1), (2, 0))), X),
    "permute": (lambda x: (x.permute(0, 2, 3, 1), x.permute(-1, 0, 1, 2) * 2), X),
    "transpose": (lambda x: (x.transpose(1, 2), x.mT, x.swapaxes(0, -1)), X),
    "squeeze, unsqueeze": (lambda x: (x[:, :1].squeeze(1), x.unsqueeze(2), x[:, :1, :1].squeeze()), X),
    "flatten, unflatten": (lambda x: (x.flatten(1), x.flatten(2).mT, x.unflatten(3, (2, 3))), X),
    "view, reshape": (lambda x: (x.view(2, 20, 6), x.mT.reshape(2, 4, 30), x.reshape(-1)), X),
    "space to depth by hand": (
        lambda x: x.reshape(2, 4, 5, 3, 2).permute(0, 1, 4, 2, 3).reshape(2, 8, 5, 3),
        X,
    ),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), X),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), reals(2, 2, 4, 6)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), X),
    "as_strided": (lambda x: x.as_strided((2, 5, 3), (120, 6, 1), 7) * 2, X),
    "view of another type": (lambda x: x.view(torch.complex128).abs(), X),
    "diag_embed, block_diag": (lambda x: torch.block_diag(x[0, 0], x[1, 0]), X),
    "tril, triu": (lambda x: x.tril() + x.triu(1), X),
    "meshgrid": (lambda a, b: torch.meshgrid(a, b, indexing="ij"), reals(4), reals(5)),
    "broadcast_to": (lambda x: x[:, :, :1].broadcast_to(X.shape).sin(), X),
    "hstack, vstack, dstack": (
        lambda a: (torch.hstack([a, a]), torch.vstack([a, a]), torch.dstack([a, a])),
        X,
    ),
}

SHAPES_COVER = {
    "diagonal": (lambda x: (x.diagonal(), x.diagonal(1, 2, 3)), X),
    "diag_embed": (lambda x: x.diag_embed(), TABLE),
    "diag": (lambda x: x.diag(), reals(5, 5)),
}

GATHER = {
    "gather": (lambda x: x.gather(2, PLACES), X),
    "gather, fewer elsewhere": (lambda x: x.gather(2, PLACES[:1, :3, :, :4]), X),
    "take_along_dim": (lambda x, i: x.take_along_dim(i, 2), X, PLACES),
    "take": (lambda x: x.take(INDEX), X),
    "index_select": (lambda x: x.index_select(2, INDEX), X),
    "index with one tensor": (lambda x: x[:, :, INDEX], X),
    "index with two side by side": (lambda x: x[:, INDEX % 4, INDEX], X),
    "index with two apart": (lambda x: x[INDEX % 2, :, INDEX], X),
    "index with two apart, not the first": (lambda x: x[:, INDEX % 4, :, INDEX], X),
    "index with a table": (lambda x: x[:, :, PLACES[0, 0]], X),
    "index with a slice between": (lambda x: x[INDEX % 2, 1:3, :, INDEX], X),
    "index with numbers": (lambda x: x[[0, 1], [1, 2]], X),
    "masked_fill": (lambda x: x.masked_fill(x > 0.3, 0.0), X),
    "masked_fill by a tensor": (lambda x: x.masked_fill(x > 0.3, x.sum()), X),
    "where": (lambda x: torch.where(x[:, :1] > 0, x, x * 2), X),
    "masked_scatter": (lambda x: x.masked_scatter(x > 0, x.flip(0)), X),
    "scatter": (lambda x, s: x.scatter(2, PLACES, s), X, reals(2, 4, 3, 6)),
    "scatter, fewer elsewhere": (lambda x, s: x.scatter(2, PLACES[:, :2], s), X, reals(2, 4, 3, 6)),
    "scatter of a value": (lambda x: x.scatter(2, PLACES, 3.0), X),
    "scatter_add": (lambda x, s: x.scatter_add(2, PLACES, s), X, reals(2, 4, 3, 6)),
    "scatter_reduce": (lambda x, s: x.scatter_reduce(2, PLACES, s, "amax"), X, reals(2, 4, 3, 6)),
    "index_add": (lambda x, s: x.index_add(2, INDEX, s), X, reals(2, 4, 3, 6)),
    "index_copy": (lambda x, s: x.index_copy(2, torch.tensor([0, 3, 1]), s), X, reals(2, 4, 3, 6)),
    "index_fill": (lambda x: x.index_fill(2, INDEX, 1.0), X),
    "index_fill by a tensor": (lambda x: x.index_fill(2, INDEX, x.sum()), X),
    "index_reduce": (lambda x, s: x.index_reduce(2, INDEX, s, "amin"), X, reals(2, 4, 3, 6)),
    "index_put": (lambda x, s: x.index_put((INDEX % 2,), s), X, reals(3, 4, 5, 6)),
    "put": (lambda x, s: x.put(INDEX, s), X, reals(3)),
    "assigning to chosen places": (lambda x: assigned(x), X),
    "slice_scatter": (lambda x, s: x.slice_scatter(s, 2, 1, 4), X, reals(2, 4, 3, 6)),
    "select_scatter": (lambda x, s: x.select_scatter(s, 2, -1), X, reals(2, 4, 6)),
    "diagonal_scatter": (lambda x, s: x.diagonal_scatter(s), TABLE, reals(4)),
    "embedding of tokens": (nn.Embedding(7, 3), TOKENS),
    "embedding, table from the input": (lambda t, w: F.embedding(t, w), TOKENS, reals(7, 3)),
    "embedding bag": (nn.EmbeddingBag(7, 3), TOKENS),
    "embedding bag, weighted": (
        weighted(nn.EmbeddingBag(7, 3, mode="sum")),
        TOKENS,
        reals(2, 5),
    ),
    "one hot": (lambda t: F.one_hot(t, 7) * 2.0, TOKENS),
    "bucketize, searchsorted": (
        lambda x: (torch.bucketize(x, BOUNDS[0]), torch.searchsorted(BOUNDS, x[0, 0, :, :2].contiguous())),
        X,
    ),
    "repeat_interleave by a tensor": (
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 0, 1, 1]), 2, output_size=5),
        X,
    ),
    "grid_sample": (lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), X, reals(2, 3, 4, 2)),
    "grid_sample, volume": (
        lambda x, g: F.grid_sample(x, g.tanh(), align_corners=True),
        reals(1, 2, 3, 4, 2),
        reals(1, 2, 3, 2, 3),
    ),
    "spatial transformer": (
        lambda x, t: F.grid_sample(x, F.affine_grid(t, x.shape, align_corners=False), align_corners=False),
        X,
        reals(2, 2, 3),
    ),
    "max_unpool": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), reals(2, 2, 4, 6)),
    "deformable convolution": (
        lambda x, o, m: torchvision.ops.deform_conv2d(x, o, KERNEL.to(x.device), mask=m),
        X,
        reals(2, 18, 3, 4) * 0.3,
        reals(2, 9, 3, 4),
    ),
    "pooling of boxes": (
        lambda x, b: (torchvision.ops.roi_align(x, b, 2), torchvision.ops.roi_pool(x, b, 2)),
        X,
        BOXES,
    ),
}

POINTWISE = {
    "activations": (
        lambda x: (F.gelu(x), F.silu(x), F.softplus(x), F.sigmoid(x), F.mish(x), x.tanh(), F.logsigmoid(x)),
        X,
    ),
    "activations with a knee": (
        lambda x: (F.leaky_relu(x), F.elu(x), F.selu(x), F.celu(x), F.softsign(x), F.tanhshrink(x)),
        X,
    ),
    "activations that are flat": (
        lambda x: (
            F.relu(x),
            F.relu6(x),
            F.hardtanh(x),
            F.hardswish(x),
            F.hardsigmoid(x),
            F.threshold(x, 0.1, 2.0),
        ),
        X,
    ),
    "shrinking": (lambda x: (F.hardshrink(x), F.softshrink(x), x.clamp(-1, 1), x.nan_to_num()), X),
    "rrelu": (nn.RReLU().eval(), X),
    "glu": (lambda x: (F.glu(x, 1), F.glu(x, -1)), X),
    "prelu": (nn.PReLU(4), X),
    "prelu, weight from the input": (lambda x, w: F.prelu(x, w), X, reals(4)),
    "dropout, training": (nn.Dropout(0.5).train(), X),
    "dropout of channels, training": (nn.Dropout2d(0.5).train(), X),
    "dropout, inference": (nn.AlphaDropout(0.5).eval(), X),
    "broadcast": (lambda a, b: (a + b, a * b[:, :1], a - b[0]), X, reals(5, 6)),
    "addcmul, addcdiv, lerp": (
        lambda a, b, c: (torch.addcmul(a, b, c), torch.addcdiv(a, b, c), a.lerp(b, c)),
        X,
        reals(5, 1),
        reals(4, 1, 6),
    ),
    "comparisons": (lambda a, b: (a.maximum(b), a.clamp(b, b + 1), a.atan2(b), a.hypot(b)), X, X.flip(0)),
    "cross product": (lambda a, b: torch.linalg.cross(a, b), reals(4, 3), reals(4, 3, seed=1)),
    "complex": (lambda a, b: (torch.complex(a, b) * 1j, torch.polar(a.abs(), b)), X, X + 1),
    "view_as_complex": (lambda x: torch.view_as_complex(x.unflatten(3, (3, 2))).abs(), X),
    "view_as_real": (lambda x: torch.view_as_real(x * (1 + 2j)), X),
    "rotary embedding by complex numbers": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(3, (3, 2))) * (0.3 + 0.7j)).flatten(3),
        X,
    ),
    "conjugates": (
        lambda x: (x.conj() * 2, x.conj().resolve_conj().imag + x.real, x.angle()),
        torch.complex(X, X + 1),
    ),
    "types": (
        lambda x: (x.float(), x.to(torch.int32), x.clone(), x.contiguous(memory_format=torch.channels_last)),
        X,
    ),
    "foreach": (lambda a, b: torch._foreach_add([a, b], [b, a]), X, X + 1),
    "normal around the input": (lambda x: torch.normal(x, 1.0), X),
    "filled with a tensor": (lambda x: x.clone().fill_(x[0, 0, 1, 2]), X),
    "in place": (lambda x: x.clone().abs_().mul_(2).sub_(x), X),
    "foreach, in place": (lambda a, b: _added_in_place([a.clone(), b[:1].clone()], [b, a[:1]]), X, X + 1),
}

# Rules whose answer is wider than the truth on purpose: which part is read is not worth following.
WIDER = {
    *("prelu, weight from the input", "activations that are flat", "shrinking", "types", "tril, triu"),
    *(
        "dropout, training",
        "dropout of channels, training",
        "rotary embedding by complex numbers",
        "view_as_complex",
    ),
    *("view of another type", "cross product", "foreach, in place"),
}

TABLES = {"shapes": SHAPES, "pointwise": POINTWISE}
COVERING = {"shapes": SHAPES_COVER, "picking": GATHER}

# On real tensors only.
REAL = {
    "fake quantization": (
        lambda x: (
            torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
            torch.fake_quantize_per_channel_affine(
                x, x[0, :, 0, 0].abs() + 0.1, torch.zeros(4), 1, -128, 127
            ),
        ),
        X.float(),
    ),
    "boxes that are kept": (lambda b: torchvision.ops.nms(b[:, 1:], b[:, 0], 0.5), BOXES),
}


@pytest.mark.parametrize("case", cases(TABLES, without=WIDER))
def test_a_rule_says_at_every_element_what_the_model_does(case):
    assert disagreements(case) == []


@pytest.mark.parametrize("case", cases(COVERING) + cases(TABLES, only=WIDER))
def test_where_values_decide_a_rule_covers_what_the_model_reads(case):
    assert disagreements(case, exact=False) == []


@pytest.mark.parametrize("case", cases({"real": REAL}))
def test_operators_without_a_meta_form_have_rules(case):
    assert disagreements(case, exact=False, devices=["cpu"]) == []


def columns(x):
    """Whether an axis is written block by block, or stacked, it has the same positions."""
    out = x.new_zeros(x.shape[0], 2 * x.shape[1], x.shape[2])
    for i in range(x.shape[1]):
        out[:, 2 * i : 2 * i + 2] = x[:, i : i + 1]
    return out[:, ::2]


@pytest.mark.parametrize(
    "together",
    [
        lambda x: torch.stack([x[:, t] for t in range(8)], 1),
        lambda x: torch.stack([x[:, t] for t in range(8)]).transpose(0, 1),
        lambda x: torch.stack(x.unbind(1), -1).transpose(1, 2),
        lambda x: torch.cat([x[:, t : t + 1] for t in range(8)], 1),
        columns,
    ],
    ids=["stack", "stack in front", "stack behind", "cat", "written"],
)
def test_an_axis_taken_apart_and_put_together_has_its_positions_again(together):
    field = archcost.receptive_field(Call(together), torch.rand(1, 8, 4), layer="", position=5)
    assert (field.window, field.size, field.stride) == (((5, 5),), (1,), (1,))


def test_summaries_of_the_whole_stacked_beside_each_other_are_no_axis():
    def model(x):
        return torch.stack([x.mean(1), x.amax(1)], 1)

    field = archcost.receptive_field(Call(model), torch.rand(1, 8, 4), layer="")
    assert (field.position, field.window) == ((), ((0, 7),))
