"""Operators whose result does not depend on the values of their arguments: tensor creation, shapes."""

from __future__ import annotations

from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op
from archcost.trace.schema import named

MAKES = named("""
    empty empty_strided empty_like empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros
    ones ones_like new_ones full full_like new_full fill.Scalar zero scalar_tensor arange linspace
    logspace eye tril_indices triu_indices {hann,hamming,bartlett,blackman,kaiser}_window _efficientzerotensor
    fft_fftfreq fft_rfftfreq range from_file
    _empty_affine_quantized _make_per_tensor_quantized_tensor
    rand rand_like randn randn_like randint randint_like randperm uniform normal_functional
    bernoulli.p bernoulli_.float normal_ normal.float_float random exponential geometric log_normal cauchy
    is_same_size sym_size sym_numel
""")


@field_rule(*MAKES)
def make(op: Op, see: See) -> None:
    return None
