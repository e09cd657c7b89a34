"""Normalisation: operations per element by the formula.

Mean 1 (add); variance 3 (subtract, square, add); normalising 2 (subtract, multiply); affine 2 (multiply,
add). A batch norm in inference is a multiplication and an addition: its statistics fold into scale and shift.
"""

from __future__ import annotations

from archcost.cost.rules.tables import given, made, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

STATISTICS, NORMALISE, AFFINE = 4, 2, 2


def _has_weight(op: Op) -> bool:
    return arguments(op).get("weight") is not None


def _layer_norm(op: Op) -> int:
    return (STATISTICS + NORMALISE + AFFINE * _has_weight(op)) * made(op)


def _batch_norm(op: Op) -> int:
    trains = arguments(op).get("training", "with_update" in op.name or op.name.endswith("no_stats"))
    return _layer_norm(op) if trains else 2 * made(op)


without_macs(
    "norm",
    {
        """
        {native_,cudnn_,miopen_,}batch_norm _native_batch_norm_legit{,_no_training}
        _batch_norm_{with_update,no_update,impl_index}
        """: _batch_norm,
        "native_layer_norm native_group_norm layer_norm": _layer_norm,
        # Square, add, multiply; and the weight.
        "_fused_rms_norm rms_norm": lambda op: (3 + _has_weight(op)) * made(op),
        "_weight_norm_interface renorm": lambda op: 3 * made(op),
        # Power, add and scale for each row that is picked.
        "embedding_renorm": lambda op: 3 * op.args[1].numel * op.args[0].shape[-1],
    },
)
# Power and add for each element, a root for each result.
without_macs("reduction", {"linalg_vector_norm norm native_norm": lambda op: 2 * given(op) + made(op)})
