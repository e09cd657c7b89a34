"""Poolings: which of them there are, and PyTorch's max pooling that in channels_last runs a compiled kernel
where nobody looks on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from archcost import kernels
from archcost.kernels.bound import max_pool
from archcost.nn.path_conv import looked_on
from archcost.surgery.refusals import hooks_of
from archcost.trace.graph import Op, Trace

__all__ = ["POOLS", "Pool", "QuickMaxPool", "pool_of", "pools_of", "quick_pool"]

POOLS = (nn.MaxPool2d, nn.AvgPool2d)
Pair = tuple[int, int]

_NAMES = {
    "aten.max_pool2d_with_indices": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "aten.avg_pool2d": (
        *("kernel_size", "stride", "padding", "ceil_mode"),
        *("count_include_pad", "divisor_override"),
    ),
}


class QuickMaxPool(nn.MaxPool2d):
    """The very same numbers, NaN included: PyTorch also finds out where each largest input is, which takes it
    several times as long."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        names = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
        super().__init__(**{name: getattr(module, name) for name in names})
        self.training = module.training

    def forward(self, x: torch.Tensor) -> Any:
        if torch.compiler.is_compiling() or type(x) is not torch.Tensor or x.dtype is not torch.float32:
            return super().forward(x)
        if (x.requires_grad and torch.is_grad_enabled()) or looked_on() or not _is_readable(x):
            return super().forward(x)
        window = self._window()
        if self.return_indices or kernels.library() is None or window is None:
            return super().forward(x)
        taps, stride, padding, dilation = window
        rows, columns = (self._outputs(x.shape[2 + axis], *(one[axis] for one in window)) for axis in (0, 1))
        if min(rows, columns) < 1:
            return super().forward(x)
        return max_pool(x, (rows, columns), (*taps, *stride, *dilation), padding)

    def _window(self) -> tuple[Pair, Pair, Pair, Pair] | None:
        """Taps, stride, padding and dilation; None where PyTorch has something to say against them."""
        taps, padding, dilation = (_pair(one) for one in (self.kernel_size, self.padding, self.dilation))
        stride = _pair(self.stride or self.kernel_size)
        if min(*taps, *stride, *dilation) < 1 or min(padding) < 0:
            return None
        wide = any(2 * p > (k - 1) * d + 1 for p, k, d in zip(padding, taps, dilation, strict=True))
        return None if wide else (taps, stride, padding, dilation)

    def _outputs(self, size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
        """Along one axis; below 1 where the window does not fit, which PyTorch refuses."""
        over = size + 2 * padding - dilation * (taps - 1) - 1
        if not self.ceil_mode:
            return over // stride + 1
        found = -(-over // stride) + 1
        # The last window begins inside the input or the padding at its left.
        return found - 1 if (found - 1) * stride >= size + padding else found


class Pool(NamedTuple):
    """A pooling that code calls as a function."""

    operator: str
    options: tuple[tuple[str, Any], ...]
    """Those of the module that does the same."""

    def module(self) -> nn.Module:
        options = dict(self.options)
        if self.operator == "aten.avg_pool2d":
            return nn.AvgPool2d(**options)
        return QuickMaxPool(nn.MaxPool2d(**options))


def pool_of(op: Op) -> Pool | None:
    """The max or average pooling of images that an operation is; None for any other."""
    names = _NAMES.get(op.base)
    if names is None or len(op.outputs[0].shape) != 4:
        return None
    given = {**dict(zip(names, op.args[1:], strict=False)), **op.kwargs}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if not options.get("stride"):
        options["stride"] = None
    return Pool(op.base, tuple(sorted(options.items())))


def quick_pool(module: nn.Module) -> QuickMaxPool:
    """In the place of one that `pools_of` named."""
    assert isinstance(module, nn.MaxPool2d)
    return QuickMaxPool(module)


def pools_of(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """The max poolings that may run the kernel, by name."""
    if kernels.library() is None:
        return ()
    named = {call.module for call in trace.calls}
    return tuple(
        name
        for name, info in trace.modules.items()
        if name in named and type(module := model.get_submodule(name)) is nn.MaxPool2d
        if not hooks_of(module) and "forward" not in vars(module) and not module.return_indices
    )


def _is_readable(x: torch.Tensor) -> bool:
    """Whether it is a batch of images in channels_last on the CPU, with something in it."""
    if x.dim() != 4 or x.device.type != "cpu" or x.layout is not torch.strided or not x.numel():
        return False
    return x.stride(1) == 1 and x.shape[1] > 1 and min(x.stride()) > 0 and not x.is_neg()


def _pair(of: Any) -> Pair:
    return (of, of) if isinstance(of, int) else (of[0], of[-1])
