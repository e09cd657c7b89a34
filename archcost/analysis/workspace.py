"""Workspace: what the kernel of an operation takes beside its tensors, where that is known.

On a CPU oneDNN convolves in a blocked layout: a contiguous input of more than a few channels is copied into
it, and the output out of it; the backward pass has the gradient of the output and the input in it. Held
against resident sets of real runs. What cuDNN takes depends on the algorithm that it chooses: not known.
"""

from __future__ import annotations

from archcost.cost.costs import count
from archcost.trace.graph import Op, TensorRef

__all__ = ["workspace_of"]

# With as few channels, those of images, oneDNN reads the input where it lies.
_FEW_CHANNELS = 4


def workspace_of(op: Op, device: str) -> int:
    """Bytes of the workspace of an operation on a device, those inside a composite operator included."""
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


def _is_contiguous(ref: TensorRef) -> bool:
    step = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.stride), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
