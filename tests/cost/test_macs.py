"""MACs that follow from arithmetic: each case states its own, and the whole table is exact.

A MAC is one multiply-accumulate of a convolution, a matrix product, a recurrent or an attention product;
biases, norms, activations and pooling count elsewhere.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from helpers.calls import Calls


def call(function, **parameters):
    """A module around a function of (self, *inputs), with the given tensors as parameters."""
    return Calls(function, **{name: nn.Parameter(tensor) for name, tensor in parameters.items()})


class SelfAttention(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, **{"batch_first": True, **arguments})

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, kdim=48, vdim=40, batch_first=True)

    def forward(self, query, key, value):
        return self.attention(query, key, value)[0]


class First(nn.Module):
    """The first of what a layer returns."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs)[0]


class DictInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, batch):
        return {"y": self.linear(batch["a"]) + self.linear(batch["b"])}


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x, times=3):
        for _ in range(times):
            x = self.linear(x)
        return x


class DataDependent(nn.Module):
    """Branches on a value, so it needs real execution: the untaken loop costs one product a test."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        while self.linear(x).sum() > 1e9:
            x = self.linear(x)
        return self.linear(x)


X = torch.zeros(2, 16, 20, 20)
TOKENS = torch.zeros(2, 32, 64)
SHARED = nn.Conv2d(16, 16, 3, padding=1)
# Four projections of 2 x 32 tokens, then Q K^T and A V.
ATTENTION = 4 * 64 * 64 * 64 + 2 * 2 * 32 * 32 * 64
ENCODER = ATTENTION + 2 * 64 * 64 * 128


def zeros(*shape):
    return torch.zeros(*shape)


CASES = {
    # convolutions: batch x positions x out x in / groups x taps
    "conv2d": (nn.Conv2d(16, 32, 3, padding=1), (X,), 2 * 400 * 32 * 16 * 9),
    "conv2d groups": (nn.Conv2d(16, 32, 3, padding=1, groups=4), (X,), 2 * 400 * 32 * 4 * 9),
    "conv2d depthwise": (nn.Conv2d(16, 16, 3, padding=1, groups=16), (X,), 2 * 400 * 16 * 9),
    "conv2d depthwise multiplier": (nn.Conv2d(16, 48, 3, padding=1, groups=16), (X,), 2 * 400 * 48 * 9),
    "conv2d stride, rectangular": (nn.Conv2d(16, 8, (3, 5), stride=(2, 1)), (X,), 2 * 9 * 16 * 8 * 16 * 15),
    "conv2d same, dilated": (nn.Conv2d(16, 32, 3, padding="same", dilation=2), (X,), 2 * 400 * 32 * 16 * 9),
    "conv2d same, even kernel": (nn.Conv2d(16, 32, 4, padding="same"), (X,), 2 * 400 * 32 * 16 * 16),
    "conv2d valid": (nn.Conv2d(16, 32, 3, padding="valid"), (X,), 2 * 324 * 32 * 16 * 9),
    "conv2d reflect": (nn.Conv2d(16, 32, 3, padding=1, padding_mode="reflect"), (X,), 2 * 400 * 32 * 16 * 9),
    "conv2d circular": (nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular"), (X,), 2 * 400 * 32 * 144),
    "conv2d unbatched": (nn.Conv2d(16, 32, 3, padding=1), (X[0],), 400 * 32 * 16 * 9),
    "conv2d channels_last": (
        nn.Conv2d(16, 32, 3), (X.to(memory_format=torch.channels_last),), 2 * 324 * 32 * 16 * 9,
    ),
    "conv1d": (nn.Conv1d(16, 32, 3), (zeros(2, 16, 50),), 2 * 48 * 32 * 16 * 3),
    "conv1d unbatched": (nn.Conv1d(16, 32, 3), (zeros(16, 50),), 48 * 32 * 16 * 3),
    "conv3d": (nn.Conv3d(4, 8, 3), (zeros(2, 4, 10, 10, 10),), 2 * 512 * 8 * 4 * 27),
    "conv_transpose1d": (nn.ConvTranspose1d(8, 4, 5, stride=3), (zeros(2, 8, 10),), 2 * 10 * 8 * 4 * 5),
    "conv_transpose2d": (nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1), (X,), 2 * 400 * 16 * 32 * 16),
    "conv_transpose2d groups": (
        nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1, groups=4), (X,), 2 * 400 * 16 * 8 * 16,
    ),
    "conv_transpose3d": (nn.ConvTranspose3d(4, 8, 3, stride=2), (zeros(2, 4, 5, 5, 5),), 2 * 125 * 4 * 8 * 27),
    "F.conv2d": (call(lambda m, a: F.conv2d(a, m.w), w=zeros(32, 16, 1, 1)), (X,), 2 * 400 * 32 * 16),
    "F.conv_transpose2d": (
        call(lambda m, a: F.conv_transpose2d(a, m.w, stride=2), w=zeros(16, 8, 2, 2)), (X,), 2 * 400 * 16 * 32,
    ),
    "F.conv1d unbatched": (
        call(lambda m, a: F.conv1d(a, m.w), w=zeros(8, 16, 3)), (zeros(16, 12),), 10 * 8 * 16 * 3,
    ),
    "conv_tbc": (
        call(lambda m, a: torch.conv_tbc(a, m.w, m.b), w=zeros(3, 8, 4), b=zeros(4)),
        (zeros(10, 2, 8),), 8 * 2 * 3 * 8 * 4,
    ),
    "one module, called twice": (nn.Sequential(SHARED, nn.ReLU(), SHARED), (X,), 2 * 2 * 400 * 16 * 16 * 9),
    # matrix products
    "linear": (nn.Linear(64, 32), (zeros(8, 64),), 8 * 64 * 32),
    "linear without bias": (nn.Linear(64, 32, bias=False), (zeros(8, 64),), 8 * 64 * 32),
    "linear of a vector": (nn.Linear(64, 32), (zeros(64),), 64 * 32),
    "linear 3d": (nn.Linear(64, 32), (zeros(8, 10, 64),), 80 * 64 * 32),
    "linear of nothing": (nn.Linear(64, 32), (zeros(0, 64),), 0),
    "F.linear": (call(lambda m, a: F.linear(a, m.w), w=zeros(32, 64)), (zeros(8, 10, 64),), 80 * 64 * 32),
    "bilinear": (nn.Bilinear(6, 5, 4), (zeros(8, 6), zeros(8, 5)), 8 * 6 * 5 * 4),
    "matmul": (call(lambda m, a, b: a @ b), (zeros(4, 8, 16), zeros(4, 16, 32)), 4 * 8 * 16 * 32),
    "matmul matrix-vector": (call(lambda m, a, b: a @ b), (zeros(64, 128), zeros(128)), 64 * 128),
    "matmul vector-matrix": (call(lambda m, a, b: a @ b), (zeros(64), zeros(64, 128)), 64 * 128),
    "matmul dot": (call(lambda m, a, b: a @ b), (zeros(128), zeros(128)), 128),
    "matmul broadcast": (call(lambda m, a, b: a @ b), (zeros(2, 1, 4, 8), zeros(3, 8, 5)), 2 * 3 * 4 * 8 * 5),
    "matmul batch of vectors": (call(lambda m, a, b: a @ b), (zeros(7, 4, 8), zeros(8)), 7 * 4 * 8),
    "addmm": (call(lambda m, a, b, c: torch.addmm(a, b, c)), (zeros(4), zeros(3, 5), zeros(5, 4)), 3 * 5 * 4),
    "addmv": (call(lambda m, a, b, c: torch.addmv(a, b, c)), (zeros(3), zeros(3, 5), zeros(5)), 15),
    "baddbmm": (
        call(lambda m, a, b, c: torch.baddbmm(a, b, c)), (zeros(2, 3, 4), zeros(2, 3, 5), zeros(2, 5, 4)), 120,
    ),
    "addbmm": (
        call(lambda m, a, b, c: torch.addbmm(a, b, c)), (zeros(3, 4), zeros(2, 3, 5), zeros(2, 5, 4)), 120,
    ),
    "outer": (call(lambda m, a, b: torch.outer(a, b)), (zeros(5), zeros(6)), 0),
    "chain": (
        call(lambda m, a, b, c: torch.linalg.multi_dot([a, b, c])),
        (zeros(2, 3), zeros(3, 4), zeros(4, 5)), 2 * 3 * 4 + 2 * 4 * 5,
    ),
    "einsum": (
        call(lambda m, a, b: torch.einsum("bhid,bhjd->bhij", a, b)), (zeros(2, 4, 8, 16),) * 2, 2 * 4 * 64 * 16,
    ),
    "einsum, three operands": (
        call(lambda m, a, b, c: torch.einsum("ij,jk,kl->il", a, b, c)),
        (zeros(2, 3), zeros(3, 4), zeros(4, 5)), 2 * 3 * 4 + 2 * 4 * 5,
    ),
    "tensordot": (
        call(lambda m, a, b: torch.tensordot(a, b, dims=2)), (zeros(3, 4, 5), zeros(4, 5, 6)), 3 * 20 * 6,
    ),
    # attention
    "attention": (
        call(lambda m, q: F.scaled_dot_product_attention(q, q, q)), (zeros(2, 4, 32, 16),), 2 * 2 * 4 * 1024 * 16,
    ),
    "attention causal": (
        call(lambda m, q: F.scaled_dot_product_attention(q, q, q, is_causal=True)),
        (zeros(2, 4, 32, 16),), 2 * 2 * 4 * 1024 * 16,
    ),
    "attention 3d": (
        call(lambda m, q: F.scaled_dot_product_attention(q, q, q)), (zeros(8, 32, 16),), 2 * 8 * 1024 * 16,
    ),
    "attention masked": (
        call(lambda m, q, k: F.scaled_dot_product_attention(q, q, q, attn_mask=k)),
        (zeros(2, 4, 32, 16), torch.ones(32, 32, dtype=torch.bool)), 2 * 2 * 4 * 1024 * 16,
    ),
    "attention, other lengths and widths": (
        call(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v)),
        (zeros(2, 4, 8, 16), zeros(2, 4, 32, 16), zeros(2, 4, 32, 24)), 2 * 4 * 8 * 32 * (16 + 24),
    ),
    "attention, grouped queries": (
        call(lambda m, q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)),
        (zeros(2, 8, 32, 16), zeros(2, 2, 32, 16)), 2 * 2 * 8 * 1024 * 16,
    ),
    "MultiheadAttention eval": (SelfAttention().eval(), (TOKENS,), ATTENTION),
    "MultiheadAttention train": (SelfAttention().train(), (TOKENS,), ATTENTION),
    "MultiheadAttention frozen eval": (SelfAttention().eval().requires_grad_(False), (TOKENS,), ATTENTION),
    "MultiheadAttention sequence first": (
        SelfAttention(batch_first=False), (TOKENS.transpose(0, 1),), ATTENTION,
    ),
    "MultiheadAttention cross": (
        CrossAttention(), (zeros(2, 8, 64), zeros(2, 32, 48), zeros(2, 32, 40)),
        2 * (2 * 8 * 64 * 64) + 2 * 32 * 64 * (48 + 40) + 2 * 2 * 8 * 32 * 64,
    ),
    "TransformerEncoderLayer eval": (
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval(), (TOKENS,), ENCODER,
    ),
    "TransformerEncoderLayer train": (
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).train(), (TOKENS,), ENCODER,
    ),
    "TransformerEncoder eval": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 3).eval(),
        (TOKENS,), 3 * ENCODER,
    ),
    "TransformerDecoderLayer": (
        nn.TransformerDecoderLayer(64, 4, 128, batch_first=True).eval(), (TOKENS, TOKENS), ENCODER + ATTENTION,
    ),
    # recurrent
    "LSTM": (First(nn.LSTM(32, 64, batch_first=True)), (zeros(2, 10, 32),), 20 * 4 * 64 * (32 + 64)),
    "LSTM 2 layers, both ways": (
        First(nn.LSTM(32, 64, 2, batch_first=True, bidirectional=True)),
        (zeros(2, 10, 32),), 20 * 2 * 4 * 64 * ((32 + 64) + (128 + 64)),
    ),
    "LSTM with projection": (
        First(nn.LSTM(32, 64, proj_size=16)), (zeros(10, 2, 32),), 20 * (4 * 64 * (32 + 16) + 64 * 16),
    ),
    "LSTM unbatched": (First(nn.LSTM(32, 64)), (zeros(10, 32),), 10 * 4 * 64 * (32 + 64)),
    "GRU": (First(nn.GRU(32, 64, batch_first=True)), (zeros(2, 10, 32),), 20 * 3 * 64 * (32 + 64)),
    "GRU 2 layers, both ways": (
        First(nn.GRU(32, 64, 2, bidirectional=True)),
        (zeros(10, 2, 32),), 20 * 2 * 3 * 64 * ((32 + 64) + (128 + 64)),
    ),
    "RNN": (First(nn.RNN(32, 64, nonlinearity="relu")), (zeros(10, 2, 32),), 20 * 64 * (32 + 64)),
    "LSTMCell": (nn.LSTMCell(32, 64), (zeros(2, 32),), 2 * 4 * 64 * (32 + 64)),
    "GRUCell": (nn.GRUCell(32, 64), (zeros(2, 32),), 2 * 3 * 64 * (32 + 64)),
    "RNNCell": (nn.RNNCell(32, 64), (zeros(2, 32),), 2 * 64 * (32 + 64)),
    # no MACs of their own
    "Embedding": (nn.Embedding(100, 16), (torch.zeros(2, 10, dtype=torch.long),), 0),
    "EmbeddingBag": (nn.EmbeddingBag(100, 16), (torch.zeros(2, 10, dtype=torch.long),), 0),
    "EmbeddingBag weighted": (
        nn.EmbeddingBag(100, 16, mode="sum"), (torch.zeros(2, 10, dtype=torch.long), None, zeros(2, 10)), 0,
    ),
    "F.embedding_bag": (
        call(lambda m, i, o: F.embedding_bag(i, m.w, o), w=zeros(100, 16)),
        (torch.zeros(20, dtype=torch.long), torch.tensor([0, 10])), 0,
    ),
    "elementwise": (call(lambda m, a: (a + a) * a), (X,), 0),
    "norms, activation, pools": (
        nn.Sequential(nn.BatchNorm2d(16), nn.GroupNorm(4, 16), nn.GELU(), nn.MaxPool2d(2), nn.AvgPool2d(2)), (X,), 0,
    ),
    "conv + norm + gelu + pool": (
        nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.GELU(), nn.MaxPool2d(2)), (X,), 2 * 400 * 256,
    ),
    "conv + bilinear upsampling": (
        nn.Sequential(nn.Conv2d(16, 16, 1), nn.Upsample(scale_factor=2, mode="bilinear")), (X,), 2 * 400 * 256,
    ),
    "cdist": (call(lambda m, a, b: torch.cdist(a, b, p=1.0)), (zeros(5, 3), zeros(7, 3)), 0),
    # structure
    "nested containers": (
        nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)), nn.Linear(4, 4)),
        (zeros(3, 4),), 3 * 3 * 16,
    ),
    "dict in, dict out": (DictInput(), ({"a": zeros(2, 16), "b": zeros(2, 16)},), 2 * 2 * 16 * 16),
    "loop of a given length": (Loop(), (zeros(2, 16), 4), 4 * 2 * 16 * 16),
    "data-dependent branch": (DataDependent(), (zeros(2, 16),), 2 * 2 * 16 * 16),
    "bfloat16": (nn.Linear(64, 32).bfloat16(), (zeros(8, 64).bfloat16(),), 8 * 64 * 32),
    "float64": (nn.Linear(64, 32).double(), (zeros(8, 64).double(),), 8 * 64 * 32),
    "frozen": (nn.Linear(64, 32).requires_grad_(False), (zeros(8, 64),), 8 * 64 * 32),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_macs_follow_from_arithmetic(name):
    module, inputs, macs = CASES[name]
    analysis = archcost.analyze(module, inputs)
    assert analysis.total.macs == macs
    assert analysis.total.flops == 2 * macs
    assert analysis.uncounted == ()


@pytest.mark.parametrize("name", [name for name in CASES if name != "data-dependent branch"])
def test_a_real_run_on_the_cpu_counts_the_same(name):
    module, inputs, macs = CASES[name]
    analysis = archcost.analyze(module, inputs, device="cpu")
    assert analysis.trace.device == "cpu"
    assert analysis.total.macs == macs
    assert analysis.uncounted == ()


def native_attention(m, x):
    a = m.attention.attention
    return torch._native_multi_head_attention(
        x, x, x, 64, 4, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias
    )[0]


def native_encoder_layer(m, x):
    e, a = m.layer, m.layer.self_attn
    return torch._transformer_encoder_layer_fwd(
        *(x, 64, 4, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias, False, False),
        *(e.norm1.eps, e.norm1.weight, e.norm1.bias, e.norm2.weight, e.norm2.bias),
        *(e.linear1.weight, e.linear1.bias, e.linear2.weight, e.linear2.bias),
    )


@pytest.mark.parametrize("operator", [native_attention, native_encoder_layer])
def test_the_fused_operators_of_inference_cost_what_their_parts_do(operator):
    fused = call(operator).eval()
    fused.attention = SelfAttention().eval()
    fused.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    parts = fused.attention if operator is native_attention else fused.layer
    fused.requires_grad_(False)
    one = archcost.analyze(fused, TOKENS, device="cpu")
    several = archcost.analyze(parts, TOKENS)
    assert len(one.operations) == 1
    assert one.total.macs == several.total.macs
    assert one.total.other_ops == several.total.other_ops
    assert (one.total.depth, one.total.nonlinearities) == (several.total.depth, several.total.nonlinearities)


def test_deformable_convolution():
    from torchvision.ops import DeformConv2d

    layer = DeformConv2d(16, 32, 3, padding=1)
    analysis = archcost.analyze(layer, (X, zeros(2, 18, 20, 20)))
    assert analysis.total.macs == 2 * 400 * 32 * 16 * 9
    # A bilinear sample of 7 operations for each tap of each input channel, and the bias.
    assert analysis.total.other_ops == 2 * 16 * 9 * 400 * 7 + 2 * 32 * 400


@pytest.mark.parametrize("size", [224, 225])
def test_macs_are_twice_as_many_for_two_images(size):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model(zeros(1, 3, size, size))
    one = archcost.analyze(model, input_size=(1, 3, size, size)).total
    two = archcost.analyze(model, input_size=(2, 3, size, size)).total
    assert two.macs == 2 * one.macs
    assert two.other_ops == 2 * one.other_ops
    assert two.params == one.params


# Complex numbers: one complex multiply-accumulate is one MAC, and eight real operations

C = torch.cfloat
COMPLEX = {
    "conv2d": (nn.Conv2d(3, 8, 3, dtype=C), (1, 3, 16, 16), 42_336),
    "conv2d, no bias": (nn.Conv2d(3, 8, 3, bias=False, dtype=C), (1, 3, 16, 16), 42_336),
    "conv2d, no batch": (nn.Conv2d(3, 8, 3, dtype=C), (3, 16, 16), 42_336),
    "conv2d same, even kernel": (nn.Conv2d(3, 8, 4, padding="same", dtype=C), (2, 3, 9, 9), 2 * 81 * 8 * 48),
    "conv2d, groups and circular padding": (
        nn.Conv2d(4, 8, 3, groups=2, padding=1, padding_mode="circular", dtype=C), (1, 4, 8, 8), 64 * 8 * 18,
    ),
    "conv2d, double precision": (nn.Conv2d(3, 8, 3, dtype=torch.cdouble), (1, 3, 16, 16), 42_336),
    "conv1d": (nn.Conv1d(3, 8, 3, dtype=C), (2, 3, 16), 2 * 14 * 8 * 9),
    "conv3d": (nn.Conv3d(3, 8, 3, dtype=C), (1, 3, 6, 6, 6), 64 * 8 * 81),
    "conv_transpose1d": (nn.ConvTranspose1d(3, 8, 3, dtype=C), (1, 3, 16), 16 * 8 * 9),
    "conv_transpose2d": (nn.ConvTranspose2d(3, 8, 3, 2, dtype=C), (1, 3, 16, 16), 256 * 8 * 27),
    "conv_transpose3d": (nn.ConvTranspose3d(3, 8, 3, dtype=C), (1, 3, 6, 6, 6), 216 * 8 * 81),
    "linear": (nn.Linear(4, 6, dtype=C), (5, 4), 5 * 24),
    "einsum": (call(lambda m, x: torch.einsum("bhid,bhjd->bhij", x, x)), (2, 2, 5, 8), 2 * 2 * 25 * 8),
    "two in a row": (
        nn.Sequential(nn.Conv2d(3, 8, 3, dtype=C), nn.Conv2d(8, 4, 1, dtype=C)), (1, 3, 16, 16), 42_336 + 196 * 32,
    ),
    "kernel made of parameters": (
        call(lambda m, x: F.conv2d(x, torch.complex(m.re, m.im)), re=zeros(8, 3, 3, 3), im=zeros(8, 3, 3, 3)),
        (1, 3, 16, 16), 42_336,
    ),
    "conjugate": (
        call(lambda m, x: F.conv2d(x.conj(), m.w), w=zeros(8, 3, 3, 3).to(C)), (1, 3, 16, 16), 42_336,
    ),
    "recurrent": (nn.RNN(4, 6, dtype=C), (5, 2, 4), 5 * 2 * 6 * (4 + 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_one_complex_multiply_accumulate_is_one_mac_and_eight_flops(name, device):
    module, size, macs = COMPLEX[name]
    x = torch.zeros(size, dtype=torch.cdouble if "double" in name else C)
    total = archcost.analyze(module, x, device=device).total
    assert (total.macs, total.flops, total.uncounted) == (macs, 8 * macs, 0)


@pytest.mark.parametrize("name", [name for name in COMPLEX if name.startswith("conv")])
def test_a_complex_convolution_is_one_layer_and_costs_its_bias_beside(name):
    """The framework runs three real ones; their sums are part of the complex arithmetic."""
    module, size, _ = COMPLEX[name]
    x = torch.zeros(size, dtype=module.weight.dtype)
    analysis = archcost.analyze(module, x)
    padded = module.padding_mode != "zeros"
    assert analysis.total.other_ops == (0 if module.bias is None else module(x).numel())
    assert (analysis.total.depth, analysis.total.neurons) == (1, module(x).numel())
    assert [op.macs for op in analysis.operations if op.macs] == [analysis.total.macs]
    assert analysis.uncounted == ()
    assert padded or len([op for op in analysis.operations if op.kind == "convolution"]) == 3


def test_real_convolutions_of_a_complex_input_count_as_written():
    """Four real ones in place of a complex one, as libraries for complex networks have them."""

    class Four(nn.Module):
        def __init__(self):
            super().__init__()
            self.re, self.im = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, x):
            real = self.re(x.real) - self.im(x.imag)
            return real + 1j * (self.re(x.imag) + self.im(x.real))

    total = archcost.analyze(Four(), torch.zeros(1, 3, 16, 16, dtype=C)).total
    assert (total.macs, total.flops) == (4 * 42_336, 2 * 4 * 42_336)


@pytest.mark.parametrize(
    ("module", "size", "field"),
    [
        (nn.Conv2d(2, 3, 3, dtype=C), (1, 2, 9, 9), (3, 3)),
        (nn.Sequential(nn.Conv1d(2, 3, 3, dtype=C), nn.Conv1d(3, 3, 3, stride=2, dtype=C)), (1, 2, 15), (5,)),
        (nn.ConvTranspose1d(2, 3, 4, stride=4, dtype=C), (1, 2, 9), (1,)),
        (nn.Conv3d(2, 3, 3, padding=1, dtype=C), (1, 2, 7, 7, 7), (3, 3, 3)),
    ],
)
def test_fields_of_complex_layers_are_those_of_real_ones_and_a_witness_agrees(module, size, field):
    found = archcost.receptive_field(module, torch.randn(size, dtype=C), verify=True)
    assert found.size == field
    assert found.window == archcost.receptive_field(_real(module), torch.randn(size)).window


def _real(module):
    """The same layers with real weights."""
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*map(_real, module))
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return type(module)(*(getattr(module, name) for name in names))
