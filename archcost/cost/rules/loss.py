"""Losses: the operations of the formula an element, and those of the reduction after it."""

from __future__ import annotations

from archcost.cost.registry import Count, counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

# As the formulas are written: subtract and square; then absolute value, comparison, the quadratic branch;
# two logarithms, two complements, two products, sum and sign; product, sign, exponential, logarithm.
_AN_ELEMENT = {
    "aten.mse_loss": 2,
    "aten.huber_loss": 5,
    "aten.smooth_l1_loss": 6,
    "aten.binary_cross_entropy": 8,
    "aten.soft_margin_loss": 4,
    # (1 - t) x - log(sigmoid(x)), the last as one activation.
    "aten.binary_cross_entropy_with_logits": 4,
}


def _reduction(op: Op, elements: int) -> int:
    """Sums of the elements, and for the mean (1) a division; 0 is none, 2 the sum."""
    reduction = arguments(op).get("reduction", 1)
    return elements + (reduction == 1) if reduction else 0


@counting_rule(*_AN_ELEMENT, kind="pointwise")
def elementwise(op: Op) -> tuple[int, int]:
    given, elements = arguments(op), op.args[0].numel
    weights = (given.get("weight") is not None) + 4 * (given.get("pos_weight") is not None)
    return 0, (_AN_ELEMENT[op.base] + weights) * elements + _reduction(op, elements)


@counting_rule("aten.nll_loss_forward", "aten.nll_loss2d_forward", kind="reduction")
def negative_log_likelihood(op: Op) -> tuple[int, int]:
    # A sign for each target; with weights, a product and their sum.
    targets = op.args[1].numel
    return 0, (3 if arguments(op).get("weight") is not None else 1) * targets + _reduction(op, targets)


@counting_rule("aten.multi_margin_loss", kind="reduction")
def multi_margin(op: Op) -> tuple[int, int]:
    # Subtract, add the margin, compare, power and weight where given, add; a division a row.
    given, x = arguments(op), op.args[0]
    rows = op.args[1].numel
    each = 4 + (given.get("p", 1) != 1) + (given.get("weight") is not None)
    return 0, each * x.numel + rows + _reduction(op, rows)


@counting_rule("aten.multilabel_margin_loss_forward", kind="reduction")
def multilabel_margin(op: Op) -> Count:
    return Count(0, None, "reduction", "how many pairs of classes are compared depends on the targets")


@counting_rule("aten._ctc_loss", "aten._cudnn_ctc_loss", kind="reduction")
def connectionist(op: Op) -> Count:
    """For each step and state the logarithm of a sum of three exponentials, and the step's own added: 12.

    There are 2 L + 1 states for L labels (Graves et al. 2006); the lengths are those of the tensors, which
    are the longest.
    """
    steps, batch = op.args[0].shape[0], (op.args[0].shape[1] if len(op.args[0].shape) == 3 else 1)
    targets = op.args[1]
    if len(targets.shape) == 1 and batch > 1:
        return Count(0, None, "reduction", "how long each target is depends on the lengths given")
    return Count(0, 12 * steps * batch * (2 * targets.shape[-1] + 1), "reduction")
