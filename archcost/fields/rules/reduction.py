"""Reductions, orderings and transforms: the hull along their dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, everything, field_rule, pointwise
from archcost.fields.rules.tables import dim_of, of_first, shape_of, table
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named


def _dims(op: Op) -> int | Sequence[int] | None:
    """The dimensions of a reduction; None is all of them."""
    given = (arguments(op).get(name) for name in ("dim", "dims", "axis"))
    found = next((dims for dims in given if dims is not None and not isinstance(dims, str)), None)
    return -1 if found is None and op.base in ("aten.kthvalue", "aten.mode") else found


@of_first(
    """
    sum nansum prod mean nanmean amax amin max min aminmax argmax argmin any all count_nonzero logsumexp
    var std var_mean std_mean linalg_vector_norm norm median nanmedian mode kthvalue
    """
)
def reduction(x: Intervals, op: Op) -> Intervals:
    """Reductions with one or two outputs: the hull along the reduced dimensions."""
    return x.reduce(_dims(op), op.index, keepdim=len(shape_of(op)) == x.rank)


field_rule("aten.max.other", "aten.min.other")(pointwise)

_LOSSES = """
    mse_loss huber_loss smooth_l1_loss soft_margin_loss binary_cross_entropy{,_with_logits} nll_loss_forward
    nll_loss2d_forward multi_margin_loss dist
"""


@field_rule(*named(_LOSSES))
def loss(op: Op, see: See) -> list[Intervals | None]:
    """Losses: a number that depends on everything, or element by element without a reduction."""
    if shape_of(op) == op.args[0].shape:
        return [pointwise(op, see), *(None for _ in op.outputs[1:])]
    return of_everything(op, see)


@field_rule(*named("{_,_log_,_safe_,_masked_,log_,}softmax"), "quantized.softmax")
def softmax(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None or not x.rank:
        return x
    given = arguments(op).get("dim")
    dim = -1 if given is None else given
    lows = see.lows(op.args[0], dim)
    return x.mixed(dim, op.index, None if lows is None else ~lows)


@field_rule("aten.linalg_cross")
def cross_product(op: Op, see: See) -> Intervals | None:
    """Each of three elements is computed from the two others; wider by its own."""
    seen = pointwise(op, see)
    return seen and seen.mixed(dim_of(op, -1), op.index)


def _hull(x: Intervals, dims: int | Sequence[int], op: Op) -> list[Intervals | None]:
    """The hull along ``dims``, for every element along them."""
    hull = x.reduce(dims, op.index)
    return [hull.expand(ref.shape) for ref in op.outputs]


table(
    {
        "cumsum cumprod cummax cummin logcumsumexp _logcumsumexp": lambda x, op: x.running(dim_of(op, -1)),
        "sort argsort topk": lambda x, op: _hull(x, dim_of(op, -1), op),
        "_fft_{r2c,c2c,c2r}": lambda x, op: _hull(x, op.args[1], op),
    }
)

_READ_BACK = """
    _local_scalar_dense item is_nonzero equal allclose _assert_async _assert_scalar
    sym_constrain_range_for_size _functional_assert_async record_stream
"""


@field_rule(*named(_READ_BACK))
def read_back(op: Op, see: See) -> None:
    """A value handed to Python: what it decides there is not seen here."""
    return None


_OF_EVERYTHING = """
    _unique _unique2 unique_dim unique_dim_consecutive unique_consecutive nonzero nonzero_static masked_select
    bincount histc trace _pack_padded_sequence _pad_packed_sequence _embedding_bag{,_forward_only}
    _ctc_loss multilabel_margin_loss_forward _pdist_forward _is_all_true _is_any_true
"""


@field_rule(*named(_OF_EVERYTHING))
def of_everything(op: Op, see: See) -> list[Intervals | None]:
    """Operators whose output elements, or whose number of elements, depend on all values."""
    return [everything(op, see, ref.shape) for ref in op.outputs]


_FACTORISATIONS = """
    linalg_inv_ex linalg_cholesky_ex _linalg_det _linalg_slogdet _linalg_solve_ex _linalg_svd _linalg_eigh
    linalg_eig linalg_qr linalg_lu linalg_lu_factor_ex linalg_matrix_exp linalg_lstsq linalg_pinv
    linalg_solve_triangular linalg_householder_product triangular_solve cholesky_solve
    cholesky_inverse linalg_ldl_factor_ex linalg_lu_solve lu_unpack _linalg_eigvals geqrf ormqr
"""


@field_rule(*named(_FACTORISATIONS))
def of_matrices(op: Op, see: See) -> list[Intervals | None]:
    """Each matrix of a batch as a whole, whatever the shape of what is computed from it."""
    lead = max(len(ref.shape) for ref in op.tensors()) - 2
    seen = [x for x in map(see, op.tensors()) if x is not None]
    if any(x.rank != lead + 2 for x in seen):
        return of_everything(op, see)
    whole = [x.reduce([-2, -1], op.index, keepdim=False) for x in seen]
    found = []
    for ref in op.outputs:
        parts = whole
        for _ in range(len(ref.shape) - lead):
            parts = [x.unsqueeze(-1) for x in parts]
        found.append(union(parts, ref.shape))
    return found
