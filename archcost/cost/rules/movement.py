"""Operators that move, make or pick data and compute nothing; and sums over gathered rows."""

from __future__ import annotations

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

MOVES = """
    cat stack clone copy _to_copy repeat repeat_interleave roll flip rot90 resize set lift
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col max_unpool2d max_unpool3d
    tril triu masked_scatter slice_scatter select_scatter diag_embed block_diag nonzero masked_select
    _reshape_copy _reshape_alias_copy split_with_sizes_copy expand_copy permute_copy slice_copy unfold_copy
    lift_fresh_copy _pack_padded_sequence _pad_packed_sequence to_padded_tensor to_sparse to_dense to_mkldnn
    _nested_tensor_from_mask _nested_from_padded _nested_tensor_from_tensor_list
    _nested_view_from_buffer_copy _nested_tensor_from_mask_left_aligned record_stream pin_memory _pin_memory
    _to_dense _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc sparse_mask
    _sparse_coo_tensor_with_dims_and_tensors _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward
    as_strided_scatter diagonal_scatter _unsafe_masked_index nonzero_static lu_unpack resize_as _lazy_clone
    _stack _chunk_cat _foreach_copy _foreach_clone _foreach_zero
    _copy_from _assert_async _assert_scalar sym_constrain_range_for_size _functional_assert_async int_repr
""".split()


@counting_rule(*(f"aten.{name}" for name in MOVES), kind="movement")
def move(op: Op) -> tuple[int, int]:
    return 0, 0


@counting_rule("aten.masked_fill", "aten.where", kind="movement")
def choose(op: Op) -> tuple[int, int]:
    return 0, 0


MAKES = """
    empty empty_strided empty_like empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros
    ones ones_like new_ones full full_like new_full fill zero scalar_tensor lift_fresh arange linspace
    logspace eye range tril_indices triu_indices _efficientzerotensor from_file
    hann_window hamming_window bartlett_window blackman_window kaiser_window fft_fftfreq fft_rfftfreq
    _empty_affine_quantized _make_per_tensor_quantized_tensor
    rand rand_like randn randn_like randint randint_like randperm uniform normal normal_functional bernoulli
    random exponential poisson geometric log_normal cauchy multinomial binomial
    _standard_gamma _sample_dirichlet
""".split()


@counting_rule(*(f"aten.{name}" for name in MAKES), kind="creation")
def make(op: Op) -> tuple[int, int]:
    return 0, 0


PICKS = ("embedding", "index", "gather", "index_select", "take", "_unsafe_index", "take_along_dim")


@counting_rule(*(f"aten.{name}" for name in PICKS), kind="gather")
def pick(op: Op) -> tuple[int, int]:
    return 0, 0


@counting_rule(
    *("aten.scatter", "aten.index_copy", "aten.index_fill", "aten._index_put_impl", "aten.put"),
    *("aten.index_put", "aten._unsafe_index_put"),
    kind="movement",
)
def place(op: Op) -> tuple[int, int]:
    given = arguments(op)
    if given.get("reduce"):  # scatter with a reduction
        return 0, int(given["index"].numel)
    values = given.get("values", given.get("source"))
    return 0, values.numel if given.get("accumulate") and values is not None else 0


@counting_rule(
    "aten.scatter_add", "aten.index_add", "aten.scatter_reduce", "aten.index_reduce", kind="reduction"
)
def add_at(op: Op) -> tuple[int, int]:
    given = arguments(op)
    source = given.get("src", given.get("source"))
    return 0, source.numel if source is not None else op.outputs[0].numel


@counting_rule("aten.col2im", "aten.unfold_backward", kind="reduction")
def fold(op: Op) -> tuple[int, int]:
    return 0, op.args[0].numel


@counting_rule("aten._embedding_bag", "aten._embedding_bag_forward_only", kind="gather")
def embedding_bag(op: Op) -> tuple[int, int]:
    # Each gathered row is added into its bag, and multiplied before where samples have weights.
    given = arguments(op)
    gathered = given["indices"].numel * given["weight"].shape[1]
    return 0, gathered * (2 if given.get("per_sample_weights") is not None else 1)
