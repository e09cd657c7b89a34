"""Losses: operations per element by the formula, and those of the reduction after it."""

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
    """Operations of the reduction argument: 0 (none) has none, 1 (mean) sums and divides, 2 (sum) sums."""
    reduction = arguments(op).get("reduction", 1)
    return elements + (reduction == 1) if reduction else 0


def _has(op: Op, name: str) -> bool:
    return arguments(op).get(name) is not None


def _elementwise(op: Op) -> int:
    weights = _has(op, "weight") + 4 * _has(op, "pos_weight")
    return (_AN_ELEMENT[op.base.removeprefix("aten.")] + weights) * given(op) + _reduction(op, given(op))


def _negative_log_likelihood(op: Op) -> int:
    # A sign per target; with weights, a product and their sum.
    targets: int = op.args[1].numel
    return (3 if _has(op, "weight") else 1) * targets + _reduction(op, targets)


def _multi_margin(op: Op) -> int:
    # Subtract, add the margin, compare, power and weight where given, add; a division per row.
    rows: int = op.args[1].numel
    each: int = 4 + (arguments(op).get("p", 1) != 1) + _has(op, "weight")
    return each * given(op) + rows + _reduction(op, rows)


def _connectionist(op: Op) -> Count:
    """CTC loss: 12 operations per step and state (log of a sum of three exponentials, and a sum).

    L labels have 2 L + 1 states (Graves et al. 2006). The lengths are the tensors' sizes, the longest.
    """
    steps, batch = op.args[0].shape[0], (op.args[0].shape[1] if len(op.args[0].shape) == 3 else 1)
    targets = op.args[1]
    if len(targets.shape) == 1 and batch > 1:
        return Count(0, None, "reduction", "the length of each target is a value of target_lengths")
    return Count(0, 12 * steps * batch * (2 * targets.shape[-1] + 1), "reduction")


_OF_VALUES = Count(0, None, "reduction", "the number of compared classes depends on the targets' values")

without_macs("pointwise", dict.fromkeys(_AN_ELEMENT, _elementwise))
without_macs(
    "reduction",
    {"nll_loss_forward nll_loss2d_forward": _negative_log_likelihood, "multi_margin_loss": _multi_margin},
)
table(
    "reduction",
    {"_ctc_loss _cudnn_ctc_loss": _connectionist, "multilabel_margin_loss_forward": lambda op: _OF_VALUES},
)
