"""Element-wise operators: one operation per output element, whatever the function.

Operators that PyTorch tags as pointwise need no rule; those here are activation functions (which count as
non-linearities) or have no tag.
"""

from __future__ import annotations

from math import prod

from archcost.cost.rules.fallback import written
from archcost.cost.rules.tables import given, made, without_macs
from archcost.trace.graph import Op, TensorRef

# Maximum, subtract, exponential, add, divide (or subtract the logarithm).
SOFTMAX_OPS = 5


def _membership(op: Op) -> int:
    """Operations of a binary search of each element among the sorted others."""
    other = op.args[1]
    others = other.numel if isinstance(other, TensorRef) else 1
    return made(op) * max(others, 1).bit_length()


def _search(op: Op) -> int:
    bounds: TensorRef = op.args[1] if "bucketize" in op.name else op.args[0]
    return made(op) * max(bounds.shape[-1], 1).bit_length()


def _fourier(op: Op) -> int:
    """5 N log2 N for a complex transform of N points, half for a real transform (Cooley and Tukey 1965)."""
    real_side = op.outputs[0] if "c2r" in op.name else op.args[0]
    points = prod(int(real_side.shape[axis]) for axis in op.args[1])
    operations = 5 * int(real_side.numel) * max(points - 1, 1).bit_length()
    return operations if "c2c" in op.name else operations // 2


without_macs(
    "activation",
    {
        """
        relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish softplus sigmoid tanh hardswish
        hardsigmoid threshold _prelu_kernel prelu softsign rrelu rrelu_with_noise{,_functional} softshrink
        hardshrink log_sigmoid_forward
        """: made,
        # A sigmoid of one half, and a product with the other half.
        "glu": lambda op: 2 * made(op),
        "{_,_log_,_safe_,_masked_,log_,}softmax": lambda op: SOFTMAX_OPS * made(op),
    },
)
without_macs(
    "pointwise",
    {
        # Mask and rescale.
        "native_dropout _fused_dropout": lambda op: 2 * made(op),
        """
        {,_foreach_}{addcmul,addcdiv,lerp} _add_relu _masked_scale _transform_bias_rescale_qkv
        """: lambda op: 2 * written(op),
        # Subtract and multiply per pair of elements.
        "dist": lambda op: 2 * given(op),
        "_euclidean_dist": lambda op: 2 * made(op) * op.args[0].shape[-1],
        # Two products and a difference per element.
        "linalg_cross": lambda op: 3 * made(op),
        "bucketize searchsorted": _search,
        "isin": _membership,
        """
        floor_divide rsub complex polar view_as_complex_copy _conj_physical
        fake_quantize_per_{tensor,channel}_affine_cachemask _fused_moving_avg_obs_fq_helper
        _fake_quantize_learnable_per_tensor_affine
        """: written,
    },
)
without_macs("other", {"_fft_r2c _fft_c2c _fft_c2r": _fourier})
