"""Every dependence rule is held against the model itself, at every element: what mixes values.

Each index of each dimension of the inputs is changed in the real model, and what changes is noted. The
rules must say just that; those in WIDER, or under a test that says so, at least that.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from helpers.calls import Call
from helpers.dependence import cases, disagreements, reals

aten = torch.ops.aten

X = reals(2, 4, 5, 6)
ROWS = reals(3, 5, 4)  # (batch, length, width), or (length, batch, width)
OTHERS = reals(3, 6, 4, seed=2)
TABLE = reals(5, 4)
SQUARES = reals(3, 4, 4)
HEADS = reals(2, 4, 5, 3)
FEWER = reals(2, 2, 6, 3, seed=3)
MASK = reals(5, 5)
FILTER = reals(5, 4)


def using(module, function):
    """A function as a model, which calls a module; both get the inputs."""
    return Call(lambda *inputs: function(module, *inputs), module)


class Hyper(nn.Module):
    """A convolution whose kernel is computed from the input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 9)

    def forward(self, x):
        kernel = self.net(x.mean((0, 1, 2))).view(1, 1, 3, 3)
        return F.conv2d(x[:, :1], kernel, padding=1)


def windows(x, size):
    """Swin's window partition: (N, H, W, C) to (windows, size size, C), attention in each, and back."""
    n, h, w, c = x.shape
    cut = x.view(n, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
    mixed = cut.softmax(1)
    back = mixed.view(n, h // size, w // size, size, size, c).permute(0, 1, 3, 2, 4, 5)
    return back.reshape(n, h, w, c)


def grouped(a, b, ends):
    """In float32, for float64 it does not take."""
    offs = None if ends is None else torch.tensor(ends, dtype=torch.int32, device=a.device)
    return torch._grouped_mm(a.float(), b.float(), offs=offs)


MATRICES = {
    "matmul, vectors": (lambda a, b: a @ b, reals(5), reals(5, seed=1)),
    "matmul, matrix and vector": (lambda a, b: a @ b, TABLE, reals(4)),
    "matmul, vector and matrix": (lambda a, b: a @ b, reals(5), TABLE),
    "matmul, matrices": (lambda a, b: a @ b.T, TABLE, reals(3, 4)),
    "matmul, batches": (lambda a, b: a @ b.transpose(1, 2), ROWS, OTHERS),
    "matmul, broadcast": (lambda a, b: a @ b, X, reals(6, 3)),
    "matmul of x with itself": (lambda a: a @ a.transpose(1, 2), ROWS),
    "bmm": (lambda a, b: torch.bmm(a, b.mT), ROWS, OTHERS),
    "grouped, a product each": (lambda a, b: grouped(a, b, None), reals(2, 4, 8), reals(2, 8, 4)),
    "grouped rows": (lambda a, b: grouped(a, b, [2, 6]), reals(6, 8), reals(2, 8, 4)),
    "grouped columns": (lambda a, b: grouped(a, b, [4, 12]), reals(2, 4, 8), reals(8, 12)),
    "grouped sums": (lambda a, b: grouped(a, b, [8, 24]), reals(4, 24), reals(24, 4)),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c), reals(3), TABLE, reals(4, 3)),
    "addmm, gelu fused": (
        lambda a, b, c: aten._addmm_activation(a, b, c, use_gelu=True),
        reals(3),
        TABLE,
        reals(4, 3),
    ),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c.mT), reals(3, 5, 1), ROWS, OTHERS),
    "addbmm": (lambda a, b, c: torch.addbmm(a, b, c.mT), reals(5, 6), ROWS, OTHERS),
    "addmv": (lambda a, b, c: torch.addmv(a, b, c), reals(5), TABLE, reals(4)),
    "dot": (lambda a, b: torch.dot(a, b), reals(5), reals(5, seed=1)),
    "outer": (lambda a, b: torch.outer(a, b), reals(5), reals(4, seed=1)),
    "ger": (lambda a, b: aten.ger(a, b), reals(5), reals(4, seed=1)),
    "addr": (lambda a, b, c: torch.addr(a, b, c), reals(5, 4), reals(5), reals(4, seed=1)),
    "kron": (lambda a, b: torch.kron(a, b), reals(2, 3), reals(3, 2, seed=1)),
    "linear": (nn.Linear(6, 3), X),
    "linear, one row": (nn.Linear(4, 3), reals(4)),
    "linear, weight and bias from the input": (
        lambda a, b, c: F.linear(a, b, c),
        TABLE,
        reals(3, 4),
        reals(3),
    ),
    "einsum": (lambda a, b: torch.einsum("bik,bjk->bij", a, b), ROWS, OTHERS),
    "einsum, outer": (lambda a, b: torch.einsum("i,j->ij", a, b), reals(5), reals(4)),
    "einsum over positions": (lambda a: torch.einsum("nchw,ndhw->ncd", a, a), X),
    "bilinear layer": (nn.Bilinear(4, 4, 3), ROWS, reals(3, 5, 4, seed=1)),
    "bilinear, weight from the input": (
        lambda a, b, w: F.bilinear(a, b, w),
        TABLE,
        TABLE + 1,
        reals(3, 4, 4),
    ),
    "cdist": (lambda a, b: torch.cdist(a, b), ROWS, OTHERS),
    "cdist, p = 1": (lambda a, b: torch.cdist(a, b, p=1), ROWS, OTHERS),
    "dist": (lambda a, b: torch.dist(a, b), TABLE, TABLE + 1),
    "kernel from the input": (Hyper(), X),
}

ATTENTION = {
    "attention": (F.scaled_dot_product_attention, HEADS, HEADS + 1, HEADS * 2),
    "attention, own keys": (lambda x: F.scaled_dot_product_attention(x, x, x), HEADS),
    "attention, causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)[:, :, 1:], HEADS),
    "attention, causal, more keys": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True)[:, :, 1:],
        HEADS,
        reals(2, 4, 7, 3, seed=1),
    ),
    "attention, causal, fewer keys": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True)[:, :, 1:],
        HEADS,
        reals(2, 4, 3, 3, seed=1),
    ),
    "attention, mask from the input": (
        lambda x, m: F.scaled_dot_product_attention(x, x, x, m),
        HEADS,
        MASK,
    ),
    "attention, grouped heads": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k * 2, enable_gqa=True),
        HEADS,
        FEWER,
    ),
    "attention, three dimensions": (lambda q, k: F.scaled_dot_product_attention(q, k, k), ROWS, OTHERS),
    "softmax": (nn.Softmax(1), X),
    "softmax, last": (lambda x: x.softmax(-1), X),
    "log softmax": (lambda x: F.log_softmax(x, 2), X),
    "softmin": (nn.Softmin(1), X),
    "softmax of a number": (lambda x: x.sum().softmax(0), X),
    "softmax over positions": (lambda x: x.flatten(2).softmax(-1).view_as(x), X),
    "window partition, attention in it, and back": (lambda x: windows(x, 2), reals(2, 4, 6, 3)),
    "multihead": (using(nn.MultiheadAttention(4, 2, batch_first=True), lambda m, x: m(x, x, x)[0]), ROWS),
    "multihead, length first, of others, with weights": (
        using(nn.MultiheadAttention(4, 2), lambda m, q, k: m(q, k, k)),
        ROWS,
        reals(6, 5, 4, seed=2),
    ),
    "encoder layer": (nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), ROWS),
    "encoder layer, norm first": (nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, norm_first=True), ROWS),
    "decoder layer": (nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True), ROWS, OTHERS),
}

NORMS = {
    "layer norm": (nn.LayerNorm(6), X),
    "layer norm, three dimensions": (nn.LayerNorm([4, 5, 6]), X),
    "layer norm, weight from the input": (
        lambda x, w, b: F.layer_norm(x, (5, 6), w, b),
        X,
        reals(5, 6),
        reals(5, 6),
    ),
    "group norm": (nn.GroupNorm(2, 4), X),
    "group norm, one group": (nn.GroupNorm(1, 4), X),
    "group norm, weight from the input": (lambda x, w, b: F.group_norm(x, 2, w, b), X, reals(4), reals(4)),
    "instance norm": (nn.InstanceNorm2d(4), X),
    "instance norm, affine": (nn.InstanceNorm2d(4, affine=True), X),
    "instance norm, its own statistics": (nn.InstanceNorm2d(4, track_running_stats=True).eval(), X),
    "batch norm, inference": (nn.BatchNorm2d(4).eval(), X),
    "batch norm, training": (nn.BatchNorm2d(4).train(), X),
    "batch norm, no statistics": (nn.BatchNorm2d(4, track_running_stats=False).eval(), X),
    "batch norm, rows": (nn.BatchNorm1d(4).train(), reals(5, 4)),
    "batch norm, weight from the input": (
        lambda x, w: F.batch_norm(x, torch.zeros_like(w), torch.ones_like(w), w),
        X,
        reals(4),
    ),
    "rms norm": (nn.RMSNorm(6), X),
    "rms norm, weight from the input": (lambda x, w: F.rms_norm(x, (5, 6), w), X, reals(5, 6)),
    "local response norm": (nn.LocalResponseNorm(3), X),
    "normalize": (lambda x: F.normalize(x, dim=1), X),
    "renorm": (lambda x: x.renorm(2, 1, 0.5), X),
    "weight norm": (lambda v, g: aten._weight_norm_interface(v, g, 0), TABLE, reals(5, 1)),
    "weight norm, last": (lambda v, g: aten._weight_norm_interface(v, g, 1), TABLE, reals(1, 4)),
    "batch norm, statistics from the input": (
        lambda x: F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))),
        X,
    ),
    "statistics that are returned": (
        lambda x: (
            *torch.native_layer_norm(x, (6,), None, None, 1e-5),
            *torch.native_group_norm(x, None, None, 2, 4, 30, 2, 1e-5),
            *torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5),
        ),
        X,
    ),
}

RECURRENT = {
    "LSTM": (nn.LSTM(4, 3), ROWS),
    "LSTM, batch first": (nn.LSTM(4, 3, batch_first=True), ROWS),
    "LSTM, both ways": (nn.LSTM(4, 3, batch_first=True, bidirectional=True), ROWS),
    "LSTM, two layers, both ways": (nn.LSTM(4, 3, 2, bidirectional=True), ROWS),
    "LSTM, projected": (nn.LSTM(4, 5, proj_size=3), ROWS),
    "LSTM, no batch": (nn.LSTM(4, 3), TABLE),
    "GRU": (nn.GRU(4, 3, batch_first=True), ROWS),
    "GRU, both ways": (nn.GRU(4, 3, bidirectional=True), ROWS),
    "RNN": (nn.RNN(4, 3), ROWS),
    "RNN, relu, both ways": (nn.RNN(4, 9, nonlinearity="relu", bidirectional=True), ROWS),
    "LSTM cell": (nn.LSTMCell(4, 3), TABLE),
    "GRU cell": (nn.GRUCell(4, 3), TABLE),
    "cumsum": (lambda x: x.cumsum(2), X),
    "cumsum, from the end": (lambda x: x.cumsum(-1), X),
    "cumprod": (lambda x: x.cumprod(2), X),
    "logcumsumexp": (lambda x: x.logcumsumexp(3), X),
    "cumulative trapezoid": (lambda x: torch.cumulative_trapezoid(x, dim=2), X),
    "diff": (lambda x: x.diff(dim=2), X),
    "LSTM, first states from the input": (
        using(nn.LSTM(4, 3), lambda m, x, h: m(x, (h, h * 2))),
        ROWS,
        reals(1, 5, 3),
    ),
}

REDUCTIONS = {
    "sum of all": (lambda x: x.sum(), X),
    "sum": (lambda x: x.sum(2), X),
    "sum, kept": (lambda x: x.sum((-1, 1), keepdim=True), X),
    "mean": (lambda x: x.mean((2, 3)), X),
    "mean of all": (lambda x: x.mean(), X),
    "mean, kept": (lambda x: x.mean((2, 3), keepdim=True), X),
    "nansum, nanmean": (lambda x: (x.nansum(1), x.nanmean(2)), X),
    "prod": (lambda x: (x.prod(), x.prod(2)), X),
    "amax, amin": (lambda x: (x.amax((1, 3)), x.amin(-1, keepdim=True)), X),
    "aminmax": (lambda x: (*x.aminmax(dim=2), *x.aminmax()), X),
    "max, min of all": (lambda x: (x.max(), x.min()), X),
    "var, std": (lambda x: (x.var(2), x.std((1, 3), keepdim=True), x.var()), X),
    "var_mean, std_mean": (lambda x: (*torch.var_mean(x, 2), *torch.std_mean(x, (1, 3), keepdim=True)), X),
    "norm": (lambda x: (x.norm(), x.norm(dim=1), x.norm(p=1, dim=(2, 3), keepdim=True)), X),
    "linalg norms": (lambda x: (torch.linalg.vector_norm(x, dim=(2, 3)), torch.linalg.norm(x, dim=1)), X),
    "logsumexp": (lambda x: (x.logsumexp(2), x.logsumexp((1, 3), keepdim=True)), X),
    "trace": (lambda x: torch.trace(x), reals(5, 5)),
    "max of two": (lambda a, b: (torch.max(a, b), torch.min(a, b[:, :1])), X, X + 0.01),
    "losses": (lambda a, b: (F.mse_loss(a, b), F.l1_loss(a, b), F.huber_loss(a, b)), TABLE, TABLE + 1),
    "fft": (lambda x: torch.fft.fft(x).real, X),
    "fft of another dimension": (lambda x: torch.fft.fft(x, dim=2).abs(), X),
    "filter in frequency": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * FILTER, s=x.shape[-2:]), X),
    "fft shifted": (lambda x: torch.fft.fftshift(torch.fft.fft2(x)).abs(), X),
    "losses with logits": (
        lambda a, b: (
            F.binary_cross_entropy_with_logits(a, b),
            F.binary_cross_entropy_with_logits(a, b, reduction="none"),
            F.mse_loss(a, b, reduction="none"),
        ),
        TABLE,
        TABLE + 1,
    ),
    "cross entropy": (
        lambda x: F.cross_entropy(x, torch.zeros(2, 5, 6, dtype=torch.long, device=x.device)),
        X,
    ),
}

REDUCTIONS_COVER = {
    "max, min along": (lambda x: (*x.max(2), *x.min(1, keepdim=True)), X),
    "argmax, argmin": (lambda x: (x.argmax(), x.argmax(1), x.argmin(2, keepdim=True)), X),
    "any, all, count": (lambda x: ((x > 0).any(1), (x > 0).all(), (x > 0).count_nonzero(2)), X),
    "median, mode, kthvalue": (lambda x: (*x.median(2), x.median(), *x.mode(1), *x.kthvalue(2, 3)), X),
    "nanmedian": (lambda x: (*x.nanmedian(2), x.nanmedian()), X),
    "mode, kthvalue of the last": (lambda x: (*x.mode(), *x.kthvalue(2)), X),
    "cummax, cummin": (lambda x: (*x.cummax(2), *x.cummin(-1)), X),
    "sort, argsort": (lambda x: (*x.sort(1), x.argsort(), *x.sort(dim=2, descending=True, stable=True)), X),
    "topk": (lambda x: (*x.topk(2), *x.topk(3, 1)), X),
    "quantile": (lambda x: x.quantile(0.3, dim=2), X),
    "c2r of any spectrum": (lambda z: torch.fft.irfft(z), torch.complex(X, X.flip(0))),
    "cross entropy by row": (
        lambda x: F.cross_entropy(x, torch.zeros(5, dtype=torch.long, device=x.device), reduction="none"),
        TABLE,
    ),
    "of matrices": (
        lambda a: (
            *(torch.linalg.inv(a), torch.linalg.det(a), torch.linalg.svdvals(a), torch.linalg.pinv(a)),
            *(torch.linalg.qr(a)[0], torch.linalg.solve(a, a[..., :2]), torch.linalg.slogdet(a)[1]),
            *(torch.linalg.eigvalsh(a + a.mT), torch.linalg.cholesky(a @ a.mT), torch.linalg.matrix_exp(a)),
        ),
        SQUARES,
    ),
    "draws": (lambda x: (x.sigmoid().bernoulli(), x.sigmoid().multinomial(2), torch.isin(x, x[0])), TABLE),
    "fused attention layer": (
        lambda x: torch._native_multi_head_attention(
            *(x, x * 2, x, 4, 2, x[0, 0, :1].expand(12, 4), x.new_ones(12), x.new_ones(4, 4), x.new_ones(4))
        ),
        ROWS.float(),
    ),
    "packed sequence": (
        using(
            nn.LSTM(4, 3),
            lambda m, x: pad_packed_sequence(m(pack_padded_sequence(x, torch.tensor([3, 3, 2, 1, 1])))[0])[0],
        ),
        ROWS,
    ),
}

# Rules whose answer is wider than the truth on purpose: which part is read is not worth following.
WIDER = {
    *("kernel from the input", "trace", "softmax of a number", "RNN, relu, both ways"),
    *("grouped rows", "grouped columns", "grouped sums"),
}

TABLES = {
    "matrices": MATRICES,
    "attention": ATTENTION,
    "norms": NORMS,
    "recurrent": RECURRENT,
    "reductions": REDUCTIONS,
}

# The framework has these on real tensors only, or runs another operator there.
REAL = {
    "unique": (lambda x: (x.unique(), x.histc(4)), TABLE),
    "compared by value": (lambda x: x * (1 + torch.equal(x, x)), TABLE),
}
FUSED = {
    "LSTM": (nn.LSTM(4, 3), ROWS.float()),
    "LSTM, two layers, both ways": (nn.LSTM(4, 3, 2, bidirectional=True), ROWS.float()),
    "LSTM, batch first, first states from the input": (
        using(nn.LSTM(4, 3, batch_first=True), lambda m, x, h: m(x, (h, h * 2))),
        ROWS.float(),
        reals(1, 3, 3).float(),
    ),
}


@pytest.mark.parametrize("case", cases(TABLES, without=WIDER))
def test_a_rule_says_at_every_element_what_the_model_does(case):
    assert disagreements(case) == []


@pytest.mark.parametrize(
    "case", cases({**TABLES, "reductions": REDUCTIONS | REDUCTIONS_COVER}, only=WIDER | set(REDUCTIONS_COVER))
)
def test_where_values_decide_a_rule_covers_what_the_model_reads(case):
    assert disagreements(case, exact=False) == []


@pytest.mark.parametrize("case", cases({"real": REAL}))
def test_operators_without_a_meta_form_have_rules(case):
    assert disagreements(case, exact=False, devices=["cpu"]) == []


@pytest.mark.parametrize("case", cases({"fused": FUSED}))
def test_fused_recurrent_layers_say_what_they_do(case):
    model, *inputs = case
    assert disagreements((model.requires_grad_(False), *inputs), devices=["cpu"]) == []


def test_a_dynamic_int8_layer_sees_the_tensor_that_it_takes_its_scale_from():
    layer = torch.ao.nn.quantized.dynamic.Linear(4, 3)
    assert disagreements((layer, ROWS.float()), exact=False, devices=["cpu"]) == []


def test_a_bias_from_the_input_is_seen_by_every_position():
    case = (using(nn.Conv2d(4, 4, 3), lambda m, x: F.conv2d(x, m.weight, x.mean((0, 2, 3)))), X)
    assert disagreements(case, exact=False) == []


def test_a_dynamic_scale_is_that_of_the_tensor_itself():
    def forward(x):
        return torch.quantize_per_tensor_dynamic(x, torch.quint8, False).dequantize()

    assert disagreements((forward, TABLE.float()), exact=False, devices=["cpu"]) == []
