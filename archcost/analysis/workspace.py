"""Workspace: what the kernel of an operation takes beside its tensors, where that is known.

On a CPU oneDNN convolves in a blocked layout: a contiguous input of more than a few channels is copied into
it, and the output out of it; the backward pass has the gradient of the output and the input in it. Held
against resident sets of real runs. What cuDNN takes depends on the algorithm that it chooses: not known.
"""

from __future__ import annotations

from archcost.cost.costs import count
from archcost.trace.graph import Op, TensorRef
from archcost.trace.schema import arguments

__all__ = ["kept_for_backward", "workspace_of"]

# With as few channels, those of images, oneDNN reads the input where it lies.
_FEW_CHANNELS = 4
_LSTM = "aten.mkldnn_rnn_layer"


def workspace_of(op: Op, device: str) -> int:
    """Bytes of the workspace of an operation on a device, those inside a composite operator included."""
    if device == "cpu" and op.base == f"{_LSTM}_backward":
        return _of_lstm(op)[1]
    if device != "cpu" or count(op).kind != "convolution" or len(op.args) < 2:
        return op.inner_peak_bytes
    tensors = [arg for arg in op.args[:2] if isinstance(arg, TensorRef)]
    if len(tensors) < 2 or not all(map(_is_contiguous, tensors)):
        return op.inner_peak_bytes
    if "backward" in op.name:
        return sum(one.nbytes for one in tensors)  # the gradient of the output, and the input
    shape = tensors[0].shape
    read = tensors[0].nbytes if len(shape) > 1 and shape[1] > _FEW_CHANNELS else 0
    return read + op.outputs[0].nbytes


def kept_for_backward(op: Op) -> dict[int, int]:
    """Bytes that oneDNN keeps for the backward pass in tensors that are empty on `meta`, by storage."""
    return {op.outputs[3].storage: _of_lstm(op)[0]} if op.base == _LSTM else {}


def _of_lstm(op: Op) -> tuple[int, int]:
    """Bytes of its workspace that an LSTM layer fills going forward, and those that it fills going backward.

    That is the gates, and two rows each of inputs, states and cell states for every step, then the same of
    their gradients, in rows of a multiple of 64 bytes that is none of 1024 (``rnn_utils.cpp`` of oneDNN). The
    sum is what it allocates for float32, to the byte.
    """
    (steps, batch, features), hidden = op.args[0].shape, arguments(op)["hidden_size"]
    widest = _padded(max(features, hidden))
    ahead = steps * _padded(4 * hidden) + (steps + 1) * (4 * widest + 2 * hidden)
    back = steps * _padded(hidden) + (steps + 1) * (2 * widest + 2 * hidden)
    size = batch * op.args[0].dtype.itemsize
    return size * ahead, size * back


def _padded(floats: int) -> int:
    rounded = -(-floats // 16) * 16
    return rounded + 16 * (rounded % 256 == 0)


def _is_contiguous(ref: TensorRef) -> bool:
    step = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
