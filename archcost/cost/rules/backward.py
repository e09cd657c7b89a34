"""Backward operators: the products of a derivative exactly, other operations by the formula.

A product y = x w has two products in its derivative, of the gradient with w and with x, each as large as
itself, where that gradient is wanted.
"""

from __future__ import annotations

from math import prod

from archcost.cost.rules.convolution import convolution_macs
from archcost.cost.rules.pointwise import SOFTMAX_OPS
from archcost.cost.rules.tables import given, made, table, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _convolution(op: Op) -> tuple[int, int]:
    """The gradients of input, weight and bias, as far as wanted; the products are those of the forward pass.

    `torch.utils.flop_counter` counts the gradient of a grouped weight as if it had no groups.
    """
    named = arguments(op)
    grad, x, weight = (named[key].shape for key in ("grad_output", "input", "weight"))
    wanted = named["output_mask"]
    macs = convolution_macs(x, weight, grad, bool(named["transposed"]))
    return macs * (wanted[0] + wanted[1]), prod(grad) if wanted[2] else 0


def _attention(op: Op) -> tuple[int, int]:
    """The scores again, then the gradients of scores, values, queries and keys: five products."""
    query, key, value = (ref.shape for ref in op.args[1:4])
    scores = prod(query[:-1]) * key[-2]
    return scores * (3 * query[-1] + 2 * value[-1]), scores * (2 * SOFTMAX_OPS + 1)


table(
    "convolution",
    {"convolution_backward{,_overrideable}": _convolution},
)
table(
    "attention",
    {
        """
        _scaled_dot_product_{flash,efficient,cudnn}_attention_backward
        _scaled_dot_product_flash_attention_for_cpu_backward
        """: _attention,
    },
)
# In training two sums over the gradient (with and without x), then scale, subtract and multiply.
without_macs(
    "norm",
    {
        """
        {native_,cudnn_,miopen_}batch_norm_backward batch_norm_backward native_layer_norm_backward
        native_group_norm_backward _fused_rms_norm_backward
        """: lambda op: 8 * made_like(op),
    },
)
without_macs("pool", {"{max_pool2d,max_pool3d}_with_indices_backward": given})
without_macs(
    "pool",
    {"avg_pool{2d,3d}_backward _adaptive_avg_pool{2d,3d}_backward adaptive_max_pool{2d,3d}_backward": made},
)
without_macs(
    "activation",
    {
        """
        threshold_backward hardtanh_backward leaky_relu_backward hardswish_backward hardsigmoid_backward
        sigmoid_backward tanh_backward silu_backward mish_backward elu_backward softplus_backward
        gelu_backward glu_backward _prelu_kernel_backward log_sigmoid_backward
        """: made,
        "{_softmax,_log_softmax}_backward_data": lambda op: 3 * made(op),
        "native_dropout_backward": made,
    },
)
without_macs("gather", {"embedding_dense_backward": given})
without_macs("resize", {"upsample_{nearest,bilinear,bicubic,linear,trilinear}{1,2,3}d_backward": given})
without_macs("movement", {"select_backward slice_backward": lambda op: 0})


def made_like(op: Op) -> int:
    """Elements of the gradient that goes in."""
    return given(op)
