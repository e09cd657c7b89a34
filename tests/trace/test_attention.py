"""Attention and recurrent layers cost the same in eval and train mode, on `meta` and on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.calls import Calls, costs, macs

# Attention


def attention_macs(batch, length, width, hidden=None):
    layer = batch * (4 * length * width * width + 2 * length * length * width)
    return layer + (0 if hidden is None else batch * 2 * length * width * hidden)


MODES = [
    (training, frozen, first, device)
    for training in (1, 0)
    for frozen in (1, 0)
    for first in (1, 0)
    for device in ("meta", "cpu")
]


@pytest.mark.parametrize(("training", "frozen", "batch_first", "device"), MODES)
def test_attention_layers_cost_the_same_in_every_mode(training, frozen, batch_first, device):
    tokens = torch.rand((3, 5, 8) if batch_first else (5, 3, 8))
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[:, 4] = True
    causal = torch.triu(torch.full((5, 5), float("-inf")), 1)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    cases = [
        (nn.MultiheadAttention(8, 2, batch_first=batch_first), (tokens,) * 3, 1, None),
        (layer, tokens, 1, 16),
        (layer, {"src": tokens, "src_mask": causal, "src_key_padding_mask": padding}, 1, 16),
        (nn.TransformerEncoder(layer, 2, enable_nested_tensor=bool(batch_first)), tokens, 2, 16),
    ]
    for model, inputs, layers, hidden in cases:
        model.train(bool(training)).requires_grad_(not frozen)
        assert macs(model, inputs, device) == layers * attention_macs(3, 5, 8, hidden)
    if device == "cpu":
        # Whether a mask is all True is asked of its values.
        assert macs(cases[-1][0], {"src": tokens, "src_key_padding_mask": padding}) == 2 * attention_macs(
            3, 5, 8, 16
        )


def test_each_part_of_an_encoder_layer_has_its_own_costs_in_eval_mode():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    for device in ("meta", "cpu"):
        rows = costs(model, torch.rand(3, 5, 8), device).by_name
        assert rows["linear1"].macs == rows["linear2"].macs == 3 * 5 * 8 * 16
        assert rows["self_attn"].macs == attention_macs(3, 5, 8)


Q = torch.rand(2, 4, 5, 8)
KV = torch.rand(2, 4, 7, 8)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("q", "k", "v", "options"),
    [
        (Q, Q, Q, {}),
        (Q, KV, KV, {}),
        (Q, KV, KV[..., :6], {}),
        (Q[0], Q[0], Q[0], {}),
        (Q[0, 0], Q[0, 0], Q[0, 0], {}),
        (Q[None], Q[None], Q[None], {}),
        (Q, Q, Q, {"is_causal": True}),
        (Q, Q, Q, {"dropout_p": 0.5}),
        (Q, Q, Q, {"scale": 2.0}),
        (Q, Q[:, :2], Q[:, :2], {"enable_gqa": True}),
        (Q, Q, Q, {"attn_mask": torch.ones(5, 5).tril().bool()}),
        (Q, Q, Q, {"attn_mask": torch.zeros(5, 5)}),
        (Q, Q, Q, {"attn_mask": torch.zeros(2, 1, 5, 5)}),
        (Q, Q, Q, {"attn_mask": torch.zeros(5, 5, requires_grad=True)}),
    ],
)
def test_scaled_dot_product_attention_of_all_kinds(q, k, v, options, device):
    model = Calls(lambda self, q, k, v, **rest: F.scaled_dot_product_attention(q, k, v, **rest))
    expected = q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    assert macs(model, {"q": q, "k": k, "v": v, **options}, device) == expected
    constants = Calls(lambda self, q: F.scaled_dot_product_attention(q, k, v, **options))
    assert macs(constants, q, device) == expected


# Recurrent layers


def cell_macs(gates, size, hidden, projection=None):
    out = projection or hidden
    return gates * hidden * (size + out) + (projection or 0) * hidden


RECURRENT = [
    (kind, gates, options)
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1))
    for options in (
        *({}, {"bidirectional": True}, {"num_layers": 2, "dropout": 0.1}, {"batch_first": True}),
        {"bias": False},
    )
]


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "gates", "options"), [*RECURRENT, (nn.LSTM, 4, {"proj_size": 3})], ids=str)
def test_recurrent_layers(kind, gates, options, training, device):
    model = kind(6, 5, **options).train(training)
    steps = 7 * 2
    one = cell_macs(gates, 6, 5, options.get("proj_size"))
    if options.get("num_layers"):
        one += cell_macs(gates, 5, 5)
    assert macs(model, torch.rand(7, 2, 6), device) == steps * one * (
        2 if options.get("bidirectional") else 1
    )


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_recurrent_cells(kind, gates):
    assert macs(kind(6, 5), torch.rand(2, 6)) == 2 * cell_macs(gates, 6, 5)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_packed_sequences_cost_their_real_lengths(device):
    x, lengths = torch.rand(7, 2, 6), torch.tensor([7, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
    expected = (7 + 4) * cell_macs(4, 6, 5)
    assert macs(nn.LSTM(6, 5), (packed,), device) == expected

    def forward(self, x):
        out, _ = self.lstm(nn.utils.rnn.pack_padded_sequence(x, lengths))
        return nn.utils.rnn.pad_packed_sequence(out)[0]

    assert macs(Calls(forward, lstm=nn.LSTM(6, 5)), x, device) == expected
