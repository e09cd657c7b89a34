"""Operators that copy, create or gather data without arithmetic; sums over gathered or scattered rows."""

from __future__ import annotations

from archcost.cost.rules.tables import given, made, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

MOVES = """
    cat stack clone copy _to_copy repeat repeat_interleave roll flip rot90 resize set lift
    constant_pad_nd reflection_pad{1,2,3}d replication_pad{1,2,3}d
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col max_unpool{2,3}d
    tril triu masked_scatter slice_scatter select_scatter diag_embed block_diag nonzero masked_select
    _reshape_copy _reshape_alias_copy split_with_sizes_copy expand_copy permute_copy slice_copy unfold_copy
    lift_fresh_copy _pack_padded_sequence _pad_packed_sequence to_padded_tensor to_sparse to_dense to_mkldnn
    _nested_tensor_from_mask _nested_from_padded _nested_tensor_from_tensor_list
    _nested_view_from_buffer_copy _nested_tensor_from_mask_left_aligned record_stream pin_memory _pin_memory
    _to_dense _to_sparse{,_csr,_csc,_bsr,_bsc} sparse_mask
    _sparse_coo_tensor_with_dims_and_tensors _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward
    as_strided_scatter diagonal_scatter _unsafe_masked_index nonzero_static lu_unpack resize_as _lazy_clone
    _stack _chunk_cat _foreach_copy _foreach_clone _foreach_zero masked_fill where
    _copy_from _assert_async _assert_scalar sym_constrain_range_for_size _functional_assert_async int_repr
"""

MAKES = """
    empty empty_strided empty_like empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros
    ones ones_like new_ones full full_like new_full fill zero scalar_tensor lift_fresh arange linspace
    logspace eye range tril_indices triu_indices _efficientzerotensor from_file
    {hann,hamming,bartlett,blackman,kaiser}_window fft_fftfreq fft_rfftfreq
    _empty_affine_quantized _make_per_tensor_quantized_tensor
    rand rand_like randn randn_like randint randint_like randperm uniform normal normal_functional bernoulli
    random exponential poisson geometric log_normal cauchy multinomial binomial
    _standard_gamma _sample_dirichlet
"""


def _placed(op: Op) -> int:
    named = arguments(op)
    if named.get("reduce"):  # scatter with a reduction
        return int(named["index"].numel)
    values = named.get("values", named.get("source"))
    return values.numel if named.get("accumulate") and values is not None else 0


def _added(op: Op) -> int:
    named = arguments(op)
    source = named.get("src", named.get("source"))
    return source.numel if source is not None else made(op)


def _embedding_bag(op: Op) -> int:
    # Each gathered row is added to its bag, and multiplied by its weight where there are weights.
    named = arguments(op)
    gathered = named["indices"].numel * named["weight"].shape[1]
    return int(gathered * (2 if named.get("per_sample_weights") is not None else 1))


without_macs("creation", {MAKES: lambda op: 0})
without_macs(
    "movement",
    {MOVES: lambda op: 0, "scatter index_copy index_fill {,_unsafe_}index_put _index_put_impl put": _placed},
)
without_macs(
    "gather",
    {
        "embedding index gather index_select take _unsafe_index take_along_dim": lambda op: 0,
        "_embedding_bag _embedding_bag_forward_only": _embedding_bag,
    },
)
without_macs(
    "reduction", {"{scatter,index}_add {scatter,index}_reduce": _added, "col2im unfold_backward": given}
)
