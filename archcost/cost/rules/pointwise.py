"""Pointwise operators: one operation an output element, whatever the function.

Operators that the framework itself tags as pointwise need no rule here; those named here are
activations (they count as non-linearities) or are not tagged.
"""

from __future__ import annotations

from math import prod

from archcost.cost.registry import counting_rule
from archcost.cost.rules.fallback import written
from archcost.trace.graph import Op, TensorRef

# Maximum, subtract, exponential, add, divide (or subtract the logarithm).
SOFTMAX_OPS = 5

ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardswish", "hardsigmoid", "threshold", "_prelu_kernel", "prelu", "softsign"),
    *("rrelu", "rrelu_with_noise", "rrelu_with_noise_functional", "log_sigmoid_forward", "softshrink"),
    "hardshrink",
)


@counting_rule(*(f"aten.{name}" for name in ACTIVATIONS), kind="activation")
def activation(op: Op) -> tuple[int, int]:
    return 0, op.outputs[0].numel


@counting_rule("aten.glu", kind="activation")
def gated(op: Op) -> tuple[int, int]:
    # A sigmoid of one half and a product with the other.
    return 0, 2 * op.outputs[0].numel


@counting_rule(
    *("aten._softmax", "aten._log_softmax", "aten._safe_softmax", "aten.softmax", "aten.log_softmax"),
    "aten._masked_softmax",
    kind="activation",
)
def softmax(op: Op) -> tuple[int, int]:
    return 0, SOFTMAX_OPS * op.outputs[0].numel


@counting_rule("aten.native_dropout", "aten._fused_dropout", kind="pointwise")
def dropout(op: Op) -> tuple[int, int]:
    # Apply the mask and rescale.
    return 0, 2 * op.outputs[0].numel


@counting_rule(
    *("aten.addcmul", "aten.addcdiv", "aten.lerp", "aten._add_relu", "aten._masked_scale"),
    *("aten._foreach_addcmul", "aten._foreach_addcdiv", "aten._foreach_lerp"),
    "aten._transform_bias_rescale_qkv",
    kind="pointwise",
)
def two_operations(op: Op) -> tuple[int, int]:
    return 0, 2 * written(op)


@counting_rule("aten.dist", "aten._euclidean_dist", kind="pointwise")
def differences(op: Op) -> tuple[int, int]:
    # Subtract and multiply for each pair of elements.
    pairs = op.outputs[0].numel * op.args[0].shape[-1] if "euclidean" in op.name else op.args[0].numel
    return 0, 2 * pairs


@counting_rule("aten.linalg_cross", kind="pointwise")
def cross_product(op: Op) -> tuple[int, int]:
    # Two products and a difference an element.
    return 0, 3 * op.outputs[0].numel


@counting_rule("aten.bucketize", "aten.searchsorted", kind="pointwise")
def binary_search(op: Op) -> tuple[int, int]:
    bounds = op.args[1] if "bucketize" in op.name else op.args[0]
    return 0, op.outputs[0].numel * max(bounds.shape[-1], 1).bit_length()


@counting_rule("aten.isin", kind="pointwise")
def membership(op: Op) -> tuple[int, int]:
    """As a search of each element among the others, put in order."""
    others = op.args[1].numel if isinstance(op.args[1], TensorRef) else 1
    return 0, op.outputs[0].numel * max(others, 1).bit_length()


@counting_rule(
    *("aten.floor_divide", "aten.rsub", "aten.complex", "aten.polar", "aten.view_as_complex_copy"),
    *("aten.fake_quantize_per_tensor_affine_cachemask", "aten.fake_quantize_per_channel_affine_cachemask"),
    *("aten._fused_moving_avg_obs_fq_helper", "aten._fake_quantize_learnable_per_tensor_affine"),
    "aten._conj_physical",
    kind="pointwise",
)
def one_operation(op: Op) -> tuple[int, int]:
    return 0, written(op)


@counting_rule("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r", kind="other")
def fourier(op: Op) -> tuple[int, int]:
    """5 N log2 N a complex transform of N points, half of it a real one (Cooley and Tukey 1965)."""
    real_side = op.outputs[0] if "c2r" in op.name else op.args[0]
    points = prod(real_side.shape[axis] for axis in op.args[1])
    operations = 5 * real_side.numel * max(points - 1, 1).bit_length()
    return 0, operations if "c2c" in op.name else operations // 2
