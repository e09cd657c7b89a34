"""Reductions, orderings and transforms: the hull along their dimensions."""

from __future__ import annotations

from typing import Any

from archcost.fields.intervals.intervals import Intervals, union
from archcost.fields.registry import See, everything, field_rule, pointwise
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _dims(op: Op) -> Any:
    """The dimensions of a reduction; None is all of them."""
    given = arguments(op)
    for name in ("dim", "dims", "axis"):
        if name in given and given[name] is not None and not isinstance(given[name], str):
            return given[name]
    return None


@field_rule(
    *(f"aten.{name}" for name in ("sum", "prod", "amax", "amin", "argmax", "argmin", "any", "all", "mean")),
    *(
        f"aten.{name}"
        for name in ("nansum", "nanmean", "count_nonzero", "logsumexp", "var", "std", "aminmax")
    ),
    *(f"aten.{name}" for name in ("var_mean", "std_mean", "linalg_vector_norm", "norm", "max", "min")),
    *(f"aten.{name}" for name in ("median", "nanmedian", "mode", "kthvalue")),
)
def reduction(op: Op, see: See) -> Any:
    """One or two outputs, each over the same dimensions."""
    x = see(op.args[0])
    if x is None:
        return None
    dims = _dims(op)
    if dims is None and op.base in ("aten.kthvalue", "aten.mode"):
        dims = -1
    keepdim = len(op.outputs[0].shape) == x.rank
    reduced = x.reduce(dims, op.index, keepdim=keepdim)
    return [reduced] * len(op.outputs)


field_rule("aten.max.other", "aten.min.other")(pointwise)


_LOSSES = """
    mse_loss huber_loss smooth_l1_loss soft_margin_loss binary_cross_entropy nll_loss_forward
    nll_loss2d_forward multi_margin_loss binary_cross_entropy_with_logits dist
""".split()


@field_rule(*(f"aten.{name}" for name in _LOSSES))
def loss(op: Op, see: See) -> list[Intervals | None]:
    """One number, unless it is not reduced: then by element, or by row where it has lost the classes."""
    x, out = op.args[0], op.outputs[0].shape
    if out == x.shape:
        return [pointwise(op, see), *(None for _ in op.outputs[1:])]
    return of_everything(op, see)


@field_rule(
    *(f"aten.{name}" for name in ("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_logcumsumexp")),
)
def running(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [x.running(dim)] * len(op.outputs)


@field_rule(
    *("aten._softmax", "aten._log_softmax", "aten._safe_softmax", "aten.softmax", "aten.log_softmax"),
    *("aten._masked_softmax", "quantized.softmax"),
)
def softmax(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None or not x.rank:
        return x
    dim = arguments(op).get("dim", -1)
    dim = -1 if dim is None else dim
    lows = see.lows(op.args[0], dim)
    return x.mixed(dim, op.index, None if lows is None else ~lows)


@field_rule("aten.linalg_cross")
def cross_product(op: Op, see: See) -> Intervals | None:
    """Each of three elements is computed from the two others; wider by its own."""
    seen = pointwise(op, see)
    return seen and seen.mixed(arguments(op).get("dim", -1), op.index)


@field_rule("aten.sort", "aten.argsort")
def sort(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [_hull(x, dim, op)] * len(op.outputs)


@field_rule("aten.topk")
def topk(op: Op, see: See) -> Any:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", -1)
    return [x.reduce([dim], op.index).expand(ref.shape) for ref in op.outputs]


def _hull(x: Intervals, dims: Any, op: Op) -> Intervals:
    """The hull along ``dims``, for every element along them."""
    return x.reduce(dims, op.index).expand(x.shape)


@field_rule("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r")
def fourier(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.reduce(op.args[1], op.index).expand(op.outputs[0].shape)


@field_rule(
    *("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.equal", "aten._assert_async"),
    "aten.allclose",
    *("aten._assert_scalar", "aten.sym_constrain_range_for_size", "aten._functional_assert_async"),
    "aten.record_stream",
)
def read_back(op: Op, see: See) -> None:
    """A value handed to Python: what it decides there is not seen here."""
    return None


@field_rule(
    *("aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.nonzero", "aten.masked_select"),
    *("aten.bincount", "aten.histc", "aten.trace", "aten.nonzero_static", "aten._pad_packed_sequence"),
    *("aten._pack_padded_sequence", "aten._embedding_bag", "aten._embedding_bag_forward_only"),
    *("aten._ctc_loss", "aten.multilabel_margin_loss_forward", "aten._pdist_forward"),
    *("aten._unique", "aten.unique_dim_consecutive", "aten._is_all_true", "aten._is_any_true"),
)
def of_everything(op: Op, see: See) -> list[Intervals | None]:
    """What each output element is, and how many there are, depends on all values."""
    return [everything(op, see, ref.shape) for ref in op.outputs]


_FACTORISATIONS = """
    linalg_inv_ex linalg_cholesky_ex _linalg_det _linalg_slogdet _linalg_solve_ex _linalg_svd _linalg_eigh
    linalg_eig linalg_qr linalg_lu linalg_lu_factor_ex linalg_matrix_exp linalg_lstsq linalg_pinv
    linalg_solve_triangular linalg_householder_product triangular_solve cholesky_solve
    cholesky_inverse linalg_ldl_factor_ex linalg_lu_solve lu_unpack _linalg_eigvals geqrf ormqr
""".split()


@field_rule(*(f"aten.{name}" for name in _FACTORISATIONS))
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
