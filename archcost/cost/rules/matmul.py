"""Matrix products: the size of the output times the length of the dimension that is summed."""

from __future__ import annotations

from math import prod

from archcost.cost.registry import Count, counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


@counting_rule("aten.mm", "aten.bmm", "aten._int_mm", "aten.matmul", kind="matmul")
def product(op: Op) -> tuple[int, int]:
    return op.outputs[0].numel * op.args[0].shape[-1], 0


@counting_rule("aten._foreach_mm", kind="matmul")
def products(op: Op) -> tuple[int, int]:
    return sum(out.numel * a.shape[-1] for out, a in zip(op.outputs, op.args[0], strict=True)), 0


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


@counting_rule(
    *("aten._scaled_mm", "aten._scaled_mm_v2", "aten._mixed_dtypes_linear", "aten._dyn_quant_matmul_4bit"),
    *("aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu"),
    "aten._weight_int4pack_mm_with_scales_and_zeros",
    kind="matmul",
)
def scaled_product(op: Op) -> tuple[int, int]:
    return op.outputs[0].numel * op.args[0].shape[-1], op.outputs[0].numel


_LAST_OFFSET = (
    "grouped matrix products: the last offset is taken to be the number of rows, so that none is left out"
)


@counting_rule("aten._grouped_mm", "aten._scaled_grouped_mm", "aten._scaled_grouped_mm_v2", kind="matmul")
def grouped_product(op: Op) -> Count:
    """Groups of rows or of columns, each times the matrix of its group; or a product for each group.

    Offsets, which are values, say where a group ends; the last is the end of what they divide.
    """
    a, b, given = op.args[0], op.args[1], arguments(op)
    divides_the_sum = len(a.shape) == len(b.shape) == 2
    outer = a.numel * b.shape[-1] if divides_the_sum else op.outputs[0].numel * a.shape[-1]
    extra = (given.get("bias") is not None) + op.name.startswith("aten._scaled")
    note = None if given.get("offs") is None else _LAST_OFFSET
    return Count(outer, extra * op.outputs[0].numel, "matmul", note=note)


@counting_rule("aten._trilinear", kind="matmul")
def bilinear(op: Op) -> tuple[int, int]:
    """y_o = sum_ij x1_i W_oij x2_j: every weight is used in one MAC for each row of the batch.

    The products x1_i x2_j are formed once a row and shared by all outputs: other operations.
    """
    x1, weight, x2 = op.args[0], op.args[1], op.args[2]
    rows = x1.numel // x1.shape[-1]
    return rows * prod(weight.shape), rows * x1.shape[-1] * x2.shape[-1]


@counting_rule("aten.linalg_solve_triangular", "aten.triangular_solve", kind="matmul")
def triangular_solve(op: Op) -> tuple[int, int]:
    """By substitution: each unknown takes a MAC for every one found before it, then a division."""
    given, out = arguments(op), op.outputs[0]
    size = given["A"].shape[-1] if "A" in given else given["self"].shape[-1]
    divisions = 0 if given.get("unitriangular") else out.numel
    return out.numel * (size - 1) // 2, divisions


@counting_rule("aten._cdist_forward", "aten._pdist_forward", kind="pointwise")
def distances(op: Op) -> tuple[int, int]:
    # |x - y|^p: subtract, power and add for each coordinate of each pair. No product of two operands.
    return 0, 3 * op.outputs[0].numel * op.args[0].shape[-1]
