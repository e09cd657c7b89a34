"""Masks that a forward makes from constants: what they hide is not seen, fused or taken apart."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fields.test_witness import moved
from torch import nn

import archcost
from archcost.analysis.receptive import verify_field
from archcost.errors import ModelError
from archcost.fields.fields import Fields
from archcost.fields.replay import masks
from archcost.trace.run import record
from helpers.calls import Call
from helpers.dependence import cases, disagreements, reals

T = 7
X = reals(2, T, 8)
LOWEST = torch.finfo(torch.float32).min


def ones(x):
    return torch.ones(T, T, device=x.device)


def visible(x, scores_to_weights):
    """Attention by hand: scores, weights, values."""
    return scores_to_weights(x @ x.mT) @ x


def above(x, value=1.0):
    return torch.full((T, T), value, device=x.device, dtype=x.dtype).triu(1)


def heads(x, n=4):
    return x.view(x.shape[0], T, n, -1).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(2)


def grouped(x, **options):
    keys = heads(x)[:, :2]
    return joined(F.scaled_dot_product_attention(heads(x), keys, keys, enable_gqa=True, **options))


def infinite_above(x):
    return torch.full((T, T), float("-inf"), device=x.device, dtype=x.dtype).triu(1)


def band(x, low, high):
    i = torch.arange(T, device=x.device)
    away = i[None] - i[:, None]
    return (away >= -low) & (away <= high)


def by_einsum(x):
    h = x.view(x.shape[0], T, 4, 2)
    scores = torch.einsum("bthd,bshd->bhts", h, h) + infinite_above(x)
    return torch.einsum("bhts,bshd->bthd", F.dropout(scores.softmax(-1), 0.0), h).flatten(2)


def in_place(x):
    scores = x @ x.mT
    scores.masked_fill_(ones(x).tril() == 0, float("-inf"))
    return scores.softmax(-1) @ x


def written_row_by_row(x):
    mask = torch.zeros(T, T, device=x.device)
    for i in range(T):
        mask[i, i + 1 :] = float("-inf")
    return visible(x, lambda s: (s + mask).softmax(-1))


def average_of_the_past(x):
    weights = ones(x).tril()
    return (weights / weights.sum(1, keepdim=True)).to(x.dtype) @ x


def some_rows_hidden_everywhere(x):
    """A row without any score left is NaN, or even: neither hides anything."""
    mask = torch.zeros(T, T, device=x.device, dtype=x.dtype)
    mask[2] = LOWEST
    return visible(x, lambda s: (s + mask).softmax(-1))


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x, attn_mask=infinite_above(x), need_weights=True)[0]


CAUSAL = {
    "fused": lambda x: joined(F.scaled_dot_product_attention(*(heads(x),) * 3, is_causal=True)),
    "grouped queries": lambda x: grouped(x, is_causal=True),
    "grouped queries, a mask": lambda x: grouped(x, attn_mask=ones(x).bool().tril()),
    "three dimensions": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "two dimensions": lambda x: F.scaled_dot_product_attention(*(x[0],) * 3, is_causal=True),
    "a mask of booleans": lambda x: F.scaled_dot_product_attention(
        *(x,) * 3, attn_mask=ones(x).bool().tril()
    ),
    "a mask, fused": lambda x: joined(
        F.scaled_dot_product_attention(*(heads(x),) * 3, ones(x).bool().tril())
    ),
    "infinity added": lambda x: visible(x, lambda s: (s + infinite_above(x)).softmax(-1)),
    "infinity subtracted": lambda x: visible(x, lambda s: (infinite_above(x) + s - 1).softmax(-1)),
    "infinity by baddbmm": lambda x: torch.baddbmm(infinite_above(x), x, x.mT).softmax(-1) @ x,
    "the lowest number": lambda x: visible(x, lambda s: (s + (1 - ones(x).tril()) * LOWEST).softmax(-1)),
    "filled": lambda x: visible(x, lambda s: s.masked_fill(ones(x).tril() == 0, -1e9).softmax(-1)),
    "where": lambda x: visible(x, lambda s: torch.where(band(x, T, 0), s, float("-inf")).softmax(-1)),
    "times zero": lambda x: visible(x, lambda s: s * ones(x).tril()),
    "tril of the scores": lambda x: visible(x, torch.tril),
    "zero after the softmax": lambda x: visible(
        x, lambda s: s.sigmoid().masked_fill(~band(x, T, 0), 0.0) / 2
    ),
    "on the right": lambda x: x.mT @ ones(x).triu().to(x.dtype),
    "a large number subtracted": lambda x: visible(x, lambda s: (s - 1e9 * above(x)).softmax(-1)),
    "scaled afterwards": lambda x: visible(x, lambda s: ((s + infinite_above(x)) / 8).softmax(-1)),
    "low beside a bias": lambda x: visible(x, lambda s: (s - 1e9 * above(x) + 50 * above(x)).softmax(-1)),
    "the lowest number and infinity": lambda x: visible(
        x, lambda s: (s + LOWEST).masked_fill(above(x) > 0, float("-inf")).softmax(-1)
    ),
    "dropout that does nothing": lambda x: visible(
        x, lambda s: torch.native_dropout(s + infinite_above(x), 0.5, False)[0].softmax(-1)
    ),
    "made by fill_": lambda x: visible(
        x, lambda s: (s + s.new_empty(T, T).fill_(float("-inf")).triu_(1)).softmax(-1)
    ),
    "in place": in_place,
    "einsum, dropout": by_einsum,
    "average of the past": average_of_the_past,
    "two layers": lambda x: CAUSAL["in place"](CAUSAL["infinity added"](x)),
    "multi-head": MultiHead(),
}
OTHERS = {
    "a band": lambda x: visible(x, lambda s: s.masked_fill(~band(x, 2, 1), float("-inf")).softmax(-1)),
    "blocks": lambda x: visible(
        x,
        lambda s: s.masked_fill(
            (torch.arange(T)[:, None] // 3 != torch.arange(T) // 3).to(x.device), -1e9
        ).softmax(-1),
    ),
    "the future": lambda x: visible(x, lambda s: s.masked_fill(~band(x, 0, T), -1e9).softmax(-1)),
    "the last ones hidden": lambda x: visible(x, lambda s: (s + infinite_above(x)[4]).softmax(-1)),
    "one mask for each of the batch": lambda x: visible(
        x, lambda s: torch.where(torch.stack([band(x, T, 0), band(x, 0, T)]), s, float("-inf")).softmax(-1)
    ),
    "keys more than queries": lambda x: F.scaled_dot_product_attention(x[:, :3], x, x, is_causal=True),
}
WIDER = {
    "rows hidden everywhere": some_rows_hidden_everywhere,
    "a mask from the input": lambda x: visible(x, lambda s: s.masked_fill(x[:, :, :T] > 0, -1e9).softmax(-1)),
    "a random mask": lambda x: visible(x, lambda s: s * (torch.rand(T, T, device=x.device) > 2)),
    "scores that are low but not hidden": lambda x: visible(
        x, lambda s: (s - 50 * ones(x).triu(1)).softmax(-1)
    ),
    "a zero that is made positive": lambda x: visible(x, lambda s: (s * ones(x).tril()).sigmoid()),
    "a mask times zero": lambda x: torch.baddbmm(above(x, -1e9), x, x.mT, beta=0).softmax(-1) @ x,
    "a mask times little": lambda x: torch.baddbmm(above(x, -1e5), x, x.mT, beta=1e-5).softmax(-1) @ x,
    "little of a mask": lambda x: visible(x, lambda s: torch.add(s, above(x, -1e5), alpha=1e-5).softmax(-1)),
    "low and lifted again": lambda x: visible(
        x, lambda s: (s.masked_fill(above(x) > 0, -1e5) + 1e5 * above(x)).softmax(-1)
    ),
    "low beside what is nearly as low": lambda x: visible(
        x, lambda s: (s + above(x, -1e4) - 9_999 * ones(x).tril()).softmax(-1)
    ),
    "all of it low": lambda x: visible(
        x, lambda s: torch.minimum(s, above(x) - 1e9).masked_fill(above(x) > 0, -1e9).softmax(-1)
    ),
    "turned to its opposite": lambda x: visible(
        x, lambda s: (-(s + above(x, -1e9)) + above(x, -1e9)).softmax(-1)
    ),
    "scores a hundred thousand times as large": lambda x: visible(
        x, lambda s: (s * 1e5 + above(x, -1e4)).softmax(-1)
    ),
    "low and dropped": lambda x: visible(
        x, lambda s: torch.native_dropout(s + above(x, -1e9), 0.5, True)[0].softmax(-1)
    ),
    "low and dropped by a product": lambda x: visible(
        x, lambda s: F.dropout(s + above(x, -1e9), 0.5).softmax(-1)
    ),
    "other strides": lambda x: visible(
        x[:1], lambda s: (s.mT.contiguous().mT + above(x, -1e9)).as_strided(s.shape, s.stride()).softmax(-1)
    ),
    "other bytes": lambda x: visible(
        x, lambda s: (s + above(x, -1e9).float().view(torch.int32).to(x.dtype)).softmax(-1)
    ),
    "along another axis": lambda x: visible(x, lambda s: (s + infinite_above(x)[4]).softmax(1)),
    "a mask that is written over": lambda x: (
        lambda mask: (mask.fill_(0.0), visible(x, lambda s: (s + mask).softmax(-1)))[1]
    )(infinite_above(x)),
}


def on(function):
    return (function, X)


def _all(**tables):
    return cases({family: {name: on(f) for name, f in table.items()} for family, table in tables.items()})


@pytest.mark.parametrize("case", _all(causal=CAUSAL, others=OTHERS))
def test_every_position_sees_what_the_mask_leaves(case):
    # Along the tokens; a query with one key alone gives it all its weight, and its own width is not seen.
    assert [wrong for wrong in disagreements(case) if "axis 2" not in wrong] == []


def test_a_mask_that_is_written_row_by_row_is_seen_where_nothing_is_executed():
    """On a real device its numbers come from tensors made in Python, whose values a Trace does not hold."""
    case = on(written_row_by_row)
    assert [wrong for wrong in disagreements(case, devices=["meta"]) if "axis 2" not in wrong] == []
    assert disagreements(case, exact=False) == []


@pytest.mark.parametrize("case", _all(wider=WIDER))
def test_what_is_not_hidden_for_certain_is_seen(case):
    assert disagreements(case, exact=False) == []


@pytest.mark.parametrize("name", [name for name in CAUSAL if name not in ("on the right", "two dimensions")])
def test_the_field_of_a_causal_position_ends_with_it(name):
    function = CAUSAL[name]
    model = function.float() if isinstance(function, nn.Module) else Call(function)
    analysis = archcost.analyze(model.eval(), X.float())
    assert not analysis.fields.opaque
    field = archcost.receptive_field(analysis, layer="", position=4)
    assert field.window == ((0, 4),)
    assert not field.is_global
    assert field.stride == (1,)
    witness = verify_field(analysis, field)
    assert witness.agrees, str(witness)
    # Zero times NaN is NaN, so that NaN at the last position would reach this one.
    wide = verify_field(analysis, moved(field, 0, 0, T - 5))
    assert str(wide) == f"the model DISAGREES: axis 0: NaN at {T - 1} did not reach the position; it must"


def test_grouped_queries_with_a_causal_mask_see_no_later_token():
    def forward(x):
        q = x.view(1, 12, 4, 8).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, q[:, :2], q[:, :2], is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(1, 12, 32)

    inputs = torch.rand(1, 12, 32)
    field = archcost.receptive_field(Call(forward), inputs, layer="", position=6, verify=True)
    assert field.window == ((0, 6),)


def test_attention_that_is_recorded_whole_has_its_mask_in_booleans():
    trace = record(Call(CAUSAL["a mask, fused"]), X.float())
    (hidden,) = (op.outputs[0] for op in trace.ops if op.base == "aten.tril")

    def whole(op):
        if "flash" not in op.name:
            return op
        name = "aten.scaled_dot_product_attention.default"
        return replace(op, name=name, args=op.args[:3], kwargs={"attn_mask": hidden}, outputs=op.outputs[:1])

    ops = tuple(map(whole, trace.ops))
    assert any(op.base == "aten.scaled_dot_product_attention" for op in ops)
    assert Fields(replace(trace, ops=ops)).at("", 3).window == ((0, 3),)


def test_a_mask_that_a_buffer_holds_is_taken_to_hide_nothing_and_the_witness_says_so():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.ones(T, T).tril())

        def forward(self, x):
            return (x @ x.mT).masked_fill(self.mask == 0, float("-inf")).softmax(-1) @ x

    model = Block()
    assert archcost.receptive_field(model, X.float(), layer="", position=3).window == ((0, T - 1),)
    with pytest.raises(ModelError, match=rf"NaN at {T - 1} did not reach the position; it must"):
        archcost.receptive_field(model, X.float(), layer="", position=3, verify=True)


FROM_PYTHON = {
    "a number": lambda x: torch.ones(T, T, dtype=x.dtype).tril(int(x[0, T - 1, 0] > 2) * T) @ x,
    "a fill": lambda x: visible(x, lambda s: (s + above(x, -1e9 * float(x[0, -1, 0] < 2))).softmax(-1)),
    "a shape": lambda x: torch.ones(T, T, dtype=x.dtype).tril(len((x[0, -1:, 0] > 2).nonzero()) * T) @ x,
}


@pytest.mark.parametrize("function", FROM_PYTHON.values(), ids=FROM_PYTHON)
def test_a_mask_with_numbers_read_off_the_input_hides_nothing(function):
    wrong = disagreements(on(function), exact=False, devices=["cpu"])
    assert [text for text in wrong if "input 0 axis 1" in text] == []


def test_a_mask_hides_until_python_reads_the_input_and_whatever_it_reads_besides():
    def model(x):
        out = visible(x, lambda s: (s + infinite_above(x)[: int(torch.ones(1)) * T]).softmax(-1))
        assert x.isfinite().all()
        return out

    field = archcost.receptive_field(Call(model), X.float(), layer="", position=4, device="cpu")
    assert field.window == ((0, 4),)


def test_weights_of_zero_hide_nothing_from_the_witness():
    model = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.Linear(T, T))
    nn.init.zeros_(model[1].weight)
    analysis = archcost.analyze(model, X.float().mT)
    field = analysis.fields.at("1")
    assert verify_field(analysis, field, X.float().mT).agrees


def test_a_mask_too_large_to_look_at_hides_nothing(monkeypatch):
    monkeypatch.setattr(masks, "_MOST", T * T - 1)
    model = Call(CAUSAL["infinity added"])
    assert archcost.receptive_field(model, X.float(), layer="", position=3).window == ((0, T - 1),)


def test_a_network_without_masks_computes_nothing(monkeypatch):
    def refuse(self, op, storage):
        raise AssertionError(op.name)

    monkeypatch.setattr(masks.Masks, "_computed", refuse)
    model = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    field = archcost.receptive_field(model, X.float(), layer="")
    assert field.is_global
