"""Recurrent layers that run as a single operator: one MAC per weight, step and row of the batch.

Where PyTorch runs a layer step by step, its products and gates are separate operations.
"""

from __future__ import annotations

from archcost.cost.rules.tables import made, table, without_macs
from archcost.trace.graph import Kwargs, Op
from archcost.trace.schema import arguments

# Gate arithmetic per unit and step, as in the step-by-step form: LSTM 12 bias and gate additions, 3
# sigmoids, 2 tanh, 4 products and sums; GRU 9 additions, 3 activations, 4 products and sums.
LSTM_OPS, GRU_OPS, RNN_OPS = 21, 16, 4
_BY_MODE = {0: RNN_OPS, 1: RNN_OPS, 2: LSTM_OPS, 3: GRU_OPS}
# Two biases per gate, where there are biases.
_BIASES = {LSTM_OPS: 8, GRU_OPS: 6, RNN_OPS: 2}


def _rows(given: Kwargs) -> int:
    """The rows of each layer and direction: steps x batch."""
    return int(given["input"].numel // given["input"].shape[-1])


def _gates(operations: int, given: Kwargs) -> int:
    return operations - (0 if given.get("has_biases", True) else _BIASES[operations])


def _counts(given: Kwargs, first: str, second: str, times: int = 1) -> tuple[int, int]:
    """MACs and other operations of one layer and direction with two matrices, ``times`` over."""
    rows = times * _rows(given)
    gates = given["hidden_size"] * _gates(_BY_MODE[given["mode"]], given)
    return rows * (given[first].numel + given[second].numel), rows * gates


def _layers(op: Op) -> tuple[int, int]:
    given = arguments(op)
    kind = {"lstm": LSTM_OPS, "gru": GRU_OPS}.get(op.name.split(".")[1], RNN_OPS)
    # The first weight of a layer and direction is (gates x hidden, features), a projection (width, hidden).
    hidden = given["params"][1].shape[0] // {LSTM_OPS: 4, GRU_OPS: 3}.get(kind, 1)
    return _stacked(given, "params", hidden, _gates(kind, given))


def _device_layers(op: Op) -> tuple[int, int]:
    given = arguments(op)
    return _stacked(given, "weight", given["hidden_size"], _BY_MODE[given["mode"]])


def _stacked(given: Kwargs, weights: str, hidden: int, gates: int) -> tuple[int, int]:
    matrices = sum(weight.numel for weight in given[weights] if len(weight.shape) == 2)
    units = given["num_layers"] * (2 if given["bidirectional"] else 1) * hidden
    return _rows(given) * matrices, _rows(given) * units * gates


table(
    "recurrent",
    {
        "mkldnn_rnn_layer": lambda op: _counts(arguments(op), "weight0", "weight1"),
        # The derivative has two products for each product, and two operations for each of a gate.
        "mkldnn_rnn_layer_backward": lambda op: _counts(arguments(op), "weight1", "weight2", 2),
        "{lstm,gru,rnn_tanh,rnn_relu}.input": _layers,
        "_cudnn_rnn miopen_rnn": _device_layers,
    },
)
without_macs(
    "recurrent",
    {
        "_thnn_fused_lstm_cell": lambda op: LSTM_OPS * made(op),
        "_thnn_fused_gru_cell": lambda op: GRU_OPS * made(op),
    },
)
