"""Linear layers, matrix products and attention as steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from archcost.engine.forms import Form
from archcost.engine.graph import Node
from archcost.engine.lowering.builder import Builder
from archcost.engine.lowering.convolutions import activation_arguments
from archcost.engine.lowering.registry import lowers
from archcost.engine.operators import Linear
from archcost.kernels.steps import LinearArguments

__all__: list[str] = []


def _plain(node: Node, given: Sequence[Form]) -> tuple[Sequence[Form], Form]:
    return [Form.PLAIN] * len(node.inputs), Form.PLAIN


@lowers(Linear, _plain)
def linear(builder: Builder, node: Node) -> None:
    operator = node.operator
    assert isinstance(operator, Linear)
    outs, ins = operator.weight.shape

    def pack(address: int) -> None:
        weight = operator.weight.detach().to(torch.float32).contiguous()
        bias = operator.bias
        bias = None if bias is None else bias.detach().to(torch.float32).contiguous()
        place = None if bias is None else bias.data_ptr()
        builder.library.archcost_linear_pack(outs, ins, ins, weight.data_ptr(), place, address)

    packed = builder.weights(builder.library.archcost_linear_packed_floats(outs, ins), pack)
    rows = prod(node.output.shape[:-1])
    arguments = LinearArguments(activation_arguments(operator.activation), rows, ins, outs, ins, outs, outs)
    added = builder.held[node.inputs[1]] if operator.adds else None
    places = (builder.held[node.inputs[0]], packed, added, builder.held[node.output])
    builder.step(node, "linear", arguments, places)
