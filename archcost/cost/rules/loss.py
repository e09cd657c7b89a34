"""Losses: the operations of the formula an element, and those of the reduction after it."""

from __future__ import annotations

from archcost.cost.registry import Count
from archcost.cost.rules.tables import given, table, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

# As the formulas are written: subtract and square; then absolute value, comparison, the quadratic branch;
# two logarithms, two complements, two products, sum and sign; product, sign, exponential, logarithm.
_AN_ELEMENT = {
    "mse_loss": 2,
    "huber_loss": 5,
    "smooth_l1_loss": 6,
    "binary_cross_entropy": 8,
    "soft_margin_loss": 4,
    # (1 - t) x - log(sigmoid(x)), the last as one activation.
    "binary_cross_entropy_with_logits": 4,
}


def _reduction(op: Op, elements: int) -> int:
    """Sums of the elements, and for the mean (1) a division; 0 is none, 2 the sum."""
    reduction = arguments(op).get("reduction", 1)
    return elements + (reduction == 1) if reduction else 0


def _has(op: Op, name: str) -> bool:
    return arguments(op).get(name) is not None


def _elementwise(op: Op) -> int:
    weights = _has(op, "weight") + 4 * _has(op, "pos_weight")
    return (_AN_ELEMENT[op.base.removeprefix("aten.")] + weights) * given(op) + _reduction(op, given(op))


def _negative_log_likelihood(op: Op) -> int:
    # A sign for each target; with weights, a product and their sum.
    targets = op.args[1].numel
    return (3 if _has(op, "weight") else 1) * targets + _reduction(op, targets)


def _multi_margin(op: Op) -> int:
    # Subtract, add the margin, compare, power and weight where given, add; a division a row.
    rows = op.args[1].numel
    each = 4 + (arguments(op).get("p", 1) != 1) + _has(op, "weight")
    return each * given(op) + rows + _reduction(op, rows)


def _connectionist(op: Op) -> Count:
    """For each step and state the logarithm of a sum of three exponentials, and the step's own added: 12.

    There are 2 L + 1 states for L labels (Graves et al. 2006); the lengths are those of the tensors, which
    are the longest.
    """
    steps, batch = op.args[0].shape[0], (op.args[0].shape[1] if len(op.args[0].shape) == 3 else 1)
    targets = op.args[1]
    if len(targets.shape) == 1 and batch > 1:
        return Count(0, None, "reduction", "how long each target is depends on the lengths given")
    return Count(0, 12 * steps * batch * (2 * targets.shape[-1] + 1), "reduction")


_OF_VALUES = Count(0, None, "reduction", "how many pairs of classes are compared depends on the targets")

without_macs("pointwise", dict.fromkeys(_AN_ELEMENT, _elementwise))
without_macs(
    "reduction",
    {"nll_loss_forward nll_loss2d_forward": _negative_log_likelihood, "multi_margin_loss": _multi_margin},
)
table(
    "reduction",
    {"_ctc_loss _cudnn_ctc_loss": _connectionist, "multilabel_margin_loss_forward": lambda op: _OF_VALUES},
)
