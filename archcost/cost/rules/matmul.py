"""Matrix products: output elements x length of the summed dimension."""

from __future__ import annotations

from archcost.cost.registry import Count
from archcost.cost.rules.tables import given, made, table, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

_LAST_OFFSET = (
    "grouped matrix products: the last offset is assumed to be the number of rows, so that all rows count"
)


def _product(op: Op, first: int = 0) -> int:
    """MACs of a product whose left factor is argument number ``first``."""
    return made(op) * int(op.args[first].shape[-1])


def _batch_sum(op: Op) -> tuple[int, int]:
    batch, _, inner = op.args[1].shape
    return batch * made(op) * inner, made(op)


def _grouped(op: Op) -> Count:
    """Grouped products: groups of rows or columns, each times the matrix of its group.

    The offsets at which groups end are values; the last is assumed to be the size of the divided dimension.
    """
    a, b, named = op.args[0], op.args[1], arguments(op)
    divides_the_sum = len(a.shape) == len(b.shape) == 2
    outer = a.numel * b.shape[-1] if divides_the_sum else _product(op)
    extra = (named.get("bias") is not None) + op.name.startswith("aten._scaled")
    note = None if named.get("offs") is None else _LAST_OFFSET
    return Count(outer, extra * made(op), "matmul", note=note)


def _bilinear(op: Op) -> tuple[int, int]:
    """y_o = sum_ij x1_i W_oij x2_j: one MAC per weight and row.

    The products x1_i x2_j, formed once per row and shared by all outputs, are other operations.
    """
    x1, weight, x2 = op.args[:3]
    rows = x1.numel // x1.shape[-1]
    return rows * weight.numel, rows * x1.shape[-1] * x2.shape[-1]


def _triangular_solve(op: Op) -> tuple[int, int]:
    """Substitution: each unknown takes a MAC per unknown solved before it, and a division."""
    named = arguments(op)
    size = named["A" if "A" in named else "self"].shape[-1]
    return made(op) * (size - 1) // 2, 0 if named.get("unitriangular") else made(op)


table(
    "matmul",
    {
        "mm bmm _int_mm matmul": lambda op: (_product(op), 0),
        "_foreach_mm": lambda op: (
            sum(out.numel * a.shape[-1] for out, a in zip(op.outputs, op.args[0], strict=True)),
            0,
        ),
        # Adding the first argument is one operation per output element; so is the fused activation.
        "addmm baddbmm": lambda op: (_product(op, 1), made(op)),
        "_addmm_activation": lambda op: (_product(op, 1), 2 * made(op)),
        "addbmm": _batch_sum,
        "mv dot vdot": lambda op: (given(op), 0),
        "addmv": lambda op: (op.args[1].numel, made(op)),
        "linear mkldnn_linear _weight_int8pack_mm": lambda op: (
            _product(op),
            made(op) if arguments(op).get("bias") is not None else 0,
        ),
        # Each result is scaled.
        """
        _scaled_mm{,_v2} _mixed_dtypes_linear _dyn_quant_matmul_4bit
        _weight_int4pack_mm{,_for_cpu,_with_scales_and_zeros}
        """: lambda op: (_product(op), made(op)),
        "_grouped_mm _scaled_grouped_mm{,_v2}": _grouped,
        "_trilinear": _bilinear,
        "linalg_solve_triangular triangular_solve": _triangular_solve,
    },
)
without_macs(
    "pointwise",
    {
        "ger outer kron": made,
        "addr": lambda op: 2 * made(op),
        # |x - y|^p: subtract, power and add per coordinate of a pair. No product of two operands.
        "_cdist_forward _pdist_forward": lambda op: 3 * _product(op),
    },
)
