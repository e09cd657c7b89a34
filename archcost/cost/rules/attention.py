"""Fused attention: two matrix products and a softmax, whatever kernel runs them.

A causal or sparse mask does not lower the count: dense kernels compute masked scores too, and published
tables and ``torch.utils.flop_counter`` count them.
"""

from __future__ import annotations

from math import prod

from archcost.cost.registry import counting_rule
from archcost.cost.rules.pointwise import SOFTMAX_OPS
from archcost.cost.rules.tables import table
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _counts(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], masked: bool
) -> tuple[int, int]:
    """MACs of Q K^T and A V, and operations of scaling, masking and softmax, from (..., length, width)."""
    scores = prod(query[:-1]) * key[-2]
    return scores * (query[-1] + value[-1]), scores * (SOFTMAX_OPS + 1 + masked)


def _fused(op: Op) -> tuple[int, int]:
    given = arguments(op)
    masked = given.get("attn_mask") is not None or given.get("attn_bias") is not None
    return _counts(op.args[0].shape, op.args[1].shape, op.args[2].shape, masked)


def _multi_head(op: Op) -> tuple[int, int]:
    given = arguments(op)
    query, key = given["query"].shape, given["key"].shape
    return _with_projections(query, key, given["embed_dim"], given["num_head"], given.get("mask") is not None)


def _with_projections(
    query: tuple[int, ...], key: tuple[int, ...], width: int, heads: int, masked: bool
) -> tuple[int, int]:
    batch, length, _ = query
    keys = (batch, heads, key[1], width // heads)
    inner, other = _counts((batch, heads, length, width // heads), keys, keys, masked)
    # Query and output projections per query, key and value projections per key.
    projections = 2 * batch * (length + key[1]) * width
    return inner + projections * width, other + projections


def _encoder_layer(op: Op) -> tuple[int, int]:
    given = arguments(op)
    shape, width = given["src"].shape, given["embed_dim"]
    hidden = given["ffn_weight_1"].shape[0]
    rows = shape[0] * shape[1]
    macs, other = _with_projections(shape, shape, width, given["num_heads"], given.get("mask") is not None)
    macs += 2 * rows * width * hidden
    # Two biases and an activation in the feed-forward part, two residual sums, two norms of 8 per element.
    return macs, other + rows * (2 * hidden + width + 2 * width + 2 * 8 * width)


counting_rule("flex_attention", kind="attention")(_fused)
table(
    "attention",
    {
        """
        _scaled_dot_product_{flash,efficient,cudnn}_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps
        scaled_dot_product_attention
        """: _fused,
        "_native_multi_head_attention": _multi_head,
        "_transformer_encoder_layer_fwd": _encoder_layer,
    },
)
