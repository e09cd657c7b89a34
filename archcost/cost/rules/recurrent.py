"""Recurrent layers run as one operator: every weight matrix is used once a step and a row.

Where the framework runs a layer step by step, the products and gates are operators of their own.
"""

from __future__ import annotations

from typing import Any

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments

# Gate arithmetic a unit and a step, as the step-by-step form has it: LSTM 12 bias and gate additions, 3
# sigmoids, 2 tanh, 4 products and sums; GRU 9 additions, 3 activations, 4 products and sums.
LSTM_OPS, GRU_OPS, RNN_OPS = 21, 16, 4
_BY_MODE = {0: RNN_OPS, 1: RNN_OPS, 2: LSTM_OPS, 3: GRU_OPS}
# Each gate adds two biases, where there are any.
_BIASES = {LSTM_OPS: 8, GRU_OPS: 6, RNN_OPS: 2}


def _rows(x: TensorRef) -> int:
    return x.numel // x.shape[-1]


@counting_rule("aten.mkldnn_rnn_layer", kind="recurrent")
def mkldnn_layer(op: Op) -> tuple[int, int]:
    given = arguments(op)
    rows = _rows(given["input"])
    matrices = given["weight0"].numel + given["weight1"].numel
    return rows * matrices, rows * given["hidden_size"] * _gates(_BY_MODE[given["mode"]], given)


@counting_rule("aten.mkldnn_rnn_layer_backward", kind="recurrent")
def mkldnn_layer_backward(op: Op) -> tuple[int, int]:
    """Each product has two in its derivative, and each operation of a gate one for its input and one back."""
    given = arguments(op)
    rows = _rows(given["input"])
    matrices = given["weight1"].numel + given["weight2"].numel
    return 2 * rows * matrices, 2 * rows * given["hidden_size"] * _gates(_BY_MODE[given["mode"]], given)


def _gates(operations: int, given: dict[str, Any]) -> int:
    return operations - (0 if given.get("has_biases", True) else _BIASES[operations])


@counting_rule(
    "aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input", kind="recurrent"
)
def layers(op: Op) -> tuple[int, int]:
    given = arguments(op)
    rows = _rows(given["input"])
    kind = {"lstm": LSTM_OPS, "gru": GRU_OPS}.get(op.name.split(".")[1], RNN_OPS)
    # The first of each layer and direction is (gates x hidden, features), and a projection (width, hidden).
    matrices = [weight for weight in given["params"] if len(weight.shape) == 2]
    hidden = given["params"][1].shape[0] // {LSTM_OPS: 4, GRU_OPS: 3}.get(kind, 1)
    units = given["num_layers"] * (2 if given["bidirectional"] else 1) * hidden
    return rows * sum(weight.numel for weight in matrices), rows * units * _gates(kind, given)


@counting_rule("aten._cudnn_rnn", "aten.miopen_rnn", kind="recurrent")
def device_layers(op: Op) -> tuple[int, int]:
    given = arguments(op)
    # Every layer and direction has as many rows as the input has: steps x batch.
    rows = _rows(given["input"])
    matrices = sum(w.numel for w in given["weight"] if len(w.shape) == 2)
    directions = 2 if given["bidirectional"] else 1
    units = directions * given["num_layers"] * given["hidden_size"]
    return rows * matrices, rows * units * _BY_MODE[given["mode"]]


@counting_rule("aten._thnn_fused_lstm_cell", kind="recurrent")
def lstm_gates(op: Op) -> tuple[int, int]:
    return 0, LSTM_OPS * op.outputs[0].numel


@counting_rule("aten._thnn_fused_gru_cell", kind="recurrent")
def gru_gates(op: Op) -> tuple[int, int]:
    return 0, GRU_OPS * op.outputs[0].numel
