"""Matrix products: the size of the output times the length of the dimension that is summed."""

from __future__ import annotations

from math import prod

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


@counting_rule("aten.mm", "aten.bmm", "aten._int_mm", "aten.matmul", kind="matmul")
def product(op: Op) -> tuple[int, int]:
    return op.outputs[0].numel * op.args[0].shape[-1], 0


@counting_rule("aten.addmm", "aten.baddbmm", "aten._addmm_activation", kind="matmul")
def product_and_sum(op: Op) -> tuple[int, int]:
    # Adding the first argument is one operation an output element; so is the fused activation.
    extra = 2 if "_addmm_activation" in op.name else 1
    return op.outputs[0].numel * op.args[1].shape[-1], extra * op.outputs[0].numel


@counting_rule("aten.addbmm", kind="matmul")
def batch_sum_of_products(op: Op) -> tuple[int, int]:
    batch, _, inner = op.args[1].shape
    return batch * op.outputs[0].numel * inner, op.outputs[0].numel


@counting_rule("aten.mv", "aten.dot", "aten.vdot", kind="matmul")
def with_vector(op: Op) -> tuple[int, int]:
    return op.args[0].numel, 0


@counting_rule("aten.addmv", kind="matmul")
def with_vector_and_sum(op: Op) -> tuple[int, int]:
    return op.args[1].numel, op.outputs[0].numel


@counting_rule("aten.ger", "aten.outer", "aten.kron", kind="pointwise")
def outer_product(op: Op) -> tuple[int, int]:
    return 0, op.outputs[0].numel


@counting_rule("aten.addr", kind="pointwise")
def outer_product_and_sum(op: Op) -> tuple[int, int]:
    return 0, 2 * op.outputs[0].numel


@counting_rule("aten.linear", "aten.mkldnn_linear", "aten._weight_int8pack_mm", kind="matmul")
def linear(op: Op) -> tuple[int, int]:
    bias = arguments(op).get("bias")
    return op.outputs[0].numel * op.args[0].shape[-1], op.outputs[0].numel if bias is not None else 0


@counting_rule("aten._scaled_mm", "aten._weight_int4pack_mm", kind="matmul")
def scaled_product(op: Op) -> tuple[int, int]:
    return op.outputs[0].numel * op.args[0].shape[-1], op.outputs[0].numel


@counting_rule("aten._trilinear", kind="matmul")
def bilinear(op: Op) -> tuple[int, int]:
    """y_o = sum_ij x1_i W_oij x2_j: every weight is used in one MAC for each row of the batch.

    The products x1_i x2_j are formed once a row and shared by all outputs: other operations.
    """
    x1, weight, x2 = op.args[0], op.args[1], op.args[2]
    rows = x1.numel // x1.shape[-1]
    return rows * prod(weight.shape), rows * x1.shape[-1] * x2.shape[-1]


@counting_rule("aten._cdist_forward", kind="pointwise")
def distances(op: Op) -> tuple[int, int]:
    # |x - y|^p: subtract, power and add for each coordinate of each pair. No product of two operands.
    return 0, 3 * op.outputs[0].numel * op.args[0].shape[-1]
