"""Recurrent layers run as one operator: every weight matrix is used once a step and a row.

Where the framework runs a layer step by step, the products and gates are operators of their own.
"""

from __future__ import annotations

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments

# Gate arithmetic a unit and a step, as the step-by-step form has it: LSTM 12 bias and gate additions, 3
# sigmoids, 2 tanh, 4 products and sums; GRU 9 additions, 3 activations, 4 products and sums.
LSTM_OPS, GRU_OPS, RNN_OPS = 21, 16, 4
_BY_MODE = {0: RNN_OPS, 1: RNN_OPS, 2: LSTM_OPS, 3: GRU_OPS}


def _rows(x: TensorRef) -> int:
    return x.numel // x.shape[-1]


@counting_rule("aten.mkldnn_rnn_layer", kind="recurrent")
def mkldnn_layer(op: Op) -> tuple[int, int]:
    given = arguments(op)
    rows = _rows(given["input"])
    matrices = given["weight0"].numel + given["weight1"].numel
    return rows * matrices, rows * given["hidden_size"] * _BY_MODE[given["mode"]]


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
