"""Normalisation: operations an element, as the formula is written.

Mean 1 (add); variance 3 (subtract, square, add); normalising 2 (subtract, multiply); affine 2 (multiply,
add). A batch norm in inference is one multiply and one add: its statistics fold into scale and shift.
"""

from __future__ import annotations

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

STATISTICS, NORMALISE, AFFINE = 4, 2, 2


@counting_rule(
    *("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm"),
    *("aten._native_batch_norm_legit_no_training", "aten.miopen_batch_norm", "aten.batch_norm"),
    *("aten._batch_norm_with_update", "aten._batch_norm_no_update", "aten._batch_norm_impl_index"),
    kind="norm",
)
def batch_norm(op: Op) -> tuple[int, int]:
    given = arguments(op)
    elements = op.outputs[0].numel
    training = given.get("training", "with_update" in op.name or op.name.endswith("no_stats"))
    if not training:
        return 0, 2 * elements
    affine = AFFINE if given.get("weight") is not None else 0
    return 0, (STATISTICS + NORMALISE + affine) * elements


@counting_rule("aten.native_layer_norm", "aten.native_group_norm", "aten.layer_norm", kind="norm")
def layer_norm(op: Op) -> tuple[int, int]:
    affine = AFFINE if arguments(op).get("weight") is not None else 0
    return 0, (STATISTICS + NORMALISE + affine) * op.outputs[0].numel


@counting_rule("aten._fused_rms_norm", "aten.rms_norm", kind="norm")
def rms_norm(op: Op) -> tuple[int, int]:
    # Square, add, multiply; and the weight.
    return 0, (3 + (arguments(op).get("weight") is not None)) * op.outputs[0].numel


@counting_rule("aten.linalg_vector_norm", "aten.norm", "aten.native_norm", kind="reduction")
def vector_norm(op: Op) -> tuple[int, int]:
    # Power and add for each element, a root for each result.
    return 0, 2 * op.args[0].numel + op.outputs[0].numel


@counting_rule("aten._weight_norm_interface", kind="norm")
def weight_norm(op: Op) -> tuple[int, int]:
    return 0, 3 * op.outputs[0].numel


@counting_rule("aten.renorm", kind="norm")
def renorm(op: Op) -> tuple[int, int]:
    return 0, 3 * op.outputs[0].numel


@counting_rule("aten.embedding_renorm", kind="norm")
def embedding_renorm(op: Op) -> tuple[int, int]:
    # Power, add and scale for each row that is picked.
    table, indices = op.args[0], op.args[1]
    return 0, 3 * indices.numel * table.shape[-1]
