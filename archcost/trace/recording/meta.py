"""Fast `meta` kernels, which compute output shapes only.

PyTorch computes some output shapes through long chains of reference functions: 2 ms for a batch norm. A
kernel here returns None where it does not apply; tests compare each with PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch._ops import OpOverload
from torch._prims_common import suggest_memory_format

from archcost.trace.schema import find_overload, named

aten = torch.ops.aten


K = TypeVar("K", bound=Callable[..., torch.Tensor | tuple[torch.Tensor, ...] | None])

FAST_META: dict[OpOverload, Callable[..., torch.Tensor | tuple[torch.Tensor, ...] | None]] = {}
"""Operator overload -> kernel, which takes the operator's arguments; None where it does not apply."""


def _for(words: str) -> Callable[[K], K]:
    """Register a kernel for operators, written as in `named`; those that this PyTorch lacks are skipped."""

    def register(kernel: K) -> K:
        known = map(find_overload, named(words))
        FAST_META.update({overload: kernel for overload in known if overload is not None})
        return kernel

    return register


def _like(x: torch.Tensor) -> torch.Tensor | None:
    """A dense tensor with the shape and memory order of ``x``: `torch.empty_like` in a fifth of its time."""
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    strides = _dense_strides(x.shape, x.stride())
    if strides is None:
        return None
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device="meta")


def _dense_strides(shape: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """Dense strides in the order of ``strides``; None where the order is ambiguous."""
    dense = [1] * len(shape)
    step, last = 1, 0
    for stride, axis in sorted((s, i) for i, s in enumerate(strides) if shape[i] != 1):
        if stride == last:  # expanded, or two axes over the same elements
            return None
        dense[axis] = step
        step, last = step * shape[axis], stride
    return dense


def _stats_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def of_one_dtype(*factors: torch.Tensor) -> None:
    """Raise for factors of different dtypes, as a real device does and PyTorch's `meta` kernels do not.

    Autocast is exempt: it casts on real devices, but not on `meta`.
    """
    dtypes = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in factors)
    if len(dtypes) > 1 and not _under_autocast():
        raise RuntimeError(f"expected factors of the same dtype, but got {' and '.join(dtypes)}; convert one")


def _under_autocast() -> bool:
    # Below the dispatcher's own key for it, `is_autocast_enabled` is False.
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth > 1


@_for("convolution.default")
def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor | None:
    axes = weight.dim() - 2
    if transposed and x.shape[1] != weight.shape[0]:
        # PyTorch's own kernel does not check.
        raise RuntimeError(f"expected input to have {weight.shape[0]} channels, but got {x.shape[1]}")
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and bias.shape != (outputs,):
        raise RuntimeError(f"expected bias to have {outputs} elements, but got {tuple(bias.shape)}")
    if is_channels_last(x) or is_channels_last(weight):
        options = stride, padding, dilation, transposed, output_padding, groups
        return _channels_last_convolution(x, weight, *options)
    plain = (
        not transposed
        and x.dim() == axes + 2
        and len(stride) == len(padding) == len(dilation) == axes
        and x.dtype == weight.dtype
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and x.is_contiguous()
        and weight.is_contiguous()
    )
    if not plain:
        if x.numel():  # an empty input is accepted in any dtype
            of_one_dtype(x, weight)
        return None
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1 or x.numel() == 0:
        return None
    return torch.empty([x.shape[0], weight.shape[0], *sizes], dtype=x.dtype, device="meta")


def is_channels_last(x: torch.Tensor) -> bool:
    nested = x.dim() == 4 and x.stride(1) == 1 and max(x.shape[1:]) > 1
    return nested and suggest_memory_format(x) is torch.channels_last


def _channels_last_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """A convolution whose output is channels_last as on a CPU, where input or weight in it is enough."""
    plain = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, weight))
    like = aten.convolution.default(
        *plain, None, stride, padding, dilation, transposed, output_padding, groups
    )
    return torch.empty_like(like, memory_format=torch.channels_last)


@_for("addmm.default")
def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **scales: float) -> torch.Tensor | None:
    fits = (
        a.dim() == b.dim() == 2
        and a.shape[1] == b.shape[0]
        and a.dtype == b.dtype == bias.dtype
        and bias.shape in ((b.shape[1],), (a.shape[0], b.shape[1]))
    )
    if not fits:
        of_one_dtype(a, b)
        return None
    return torch.empty((a.shape[0], b.shape[1]), dtype=a.dtype, device="meta")


@_for("mm.default mv.default")
def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    of_one_dtype(a, b)
    if a.dim() != 2 or not b.dim() or a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return None
    return torch.empty((a.shape[0], *b.shape[1:]), dtype=a.dtype, device="meta")


@_for("native_batch_norm.default")
def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    training: bool,
    *_: float,
) -> tuple[torch.Tensor, ...] | None:
    if x.dim() < 2 or any(t is not None and t.shape != (x.shape[1],) for t in (weight, bias, mean, var)):
        return None
    channels = x.shape[1] if training else 0
    stats = [torch.empty((channels,), dtype=_stats_dtype(x), device="meta") for _ in range(2)]
    out = _like(x)
    return None if out is None else (out, *stats)


@_for("native_layer_norm.default")
def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, ...] | None:
    axis = x.dim() - len(normalized_shape)
    inner = x.shape[axis:]
    if axis < 0 or any(n != m for n, m in zip(inner, normalized_shape, strict=True)):
        return None
    if any(t is not None and t.shape != inner for t in (weight, bias)):
        return None
    shape, dtype = (*x.shape[:axis], *(1,) * len(normalized_shape)), _stats_dtype(x)
    stats = [torch.empty(shape, dtype=dtype, device="meta") for _ in range(2)]
    return (torch.empty(x.shape, dtype=x.dtype, device="meta"), *stats)


@_for(
    """
    {gelu,silu,sigmoid,tanh,relu,hardtanh,hardswish,hardsigmoid,leaky_relu,elu,softplus,mish}.default
    {exp,neg,sqrt,rsqrt,erf,abs,clamp,clamp_min,clamp_max}.default {mul,add,sub,div}.Scalar pow.Tensor_Scalar
    """
)
def _unary(x: torch.Tensor, *rest: torch.Tensor | complex | None, **options: float) -> torch.Tensor | None:
    return _like(x) if _is_plain(x, rest) else None


def _is_plain(x: torch.Tensor, rest: tuple[torch.Tensor | complex | None, ...]) -> bool:
    return x.is_floating_point() and not any(isinstance(r, (torch.Tensor, complex, bool)) for r in rest)


@_for("add.Tensor sub.Tensor mul.Tensor div.Tensor")
def _binary(a: torch.Tensor, b: torch.Tensor, **options: float) -> torch.Tensor | None:
    if not isinstance(a, torch.Tensor) or not a.is_floating_point():
        return None
    if not isinstance(b, torch.Tensor):
        return None if isinstance(b, (complex, bool)) else _like(a)
    if a.dtype != b.dtype:
        return None
    # The first operand decides the layout of the result wherever its strides can.
    if _broadcasts(b, a):
        return _like(a)
    return _like(b) if _broadcasts(a, b) and sum(n > 1 for n in a.shape) <= 1 else None


def _broadcasts(small: torch.Tensor, full: torch.Tensor) -> bool:
    """Whether ``small`` expands to the very shape of ``full``."""
    missing = full.dim() - small.dim()
    if missing < 0:
        return False
    return all(n in (1, m) for n, m in zip(small.shape, full.shape[missing:], strict=True))


@_for(
    "{relu,silu,hardtanh,hardswish,hardsigmoid,leaky_relu,elu,sigmoid,gelu,clamp}_.default {mul,div}_.Scalar"
)
def _unary_(x: torch.Tensor, *rest: torch.Tensor | complex | None, **options: float) -> torch.Tensor | None:
    return x if _is_plain(x, rest) and 0 not in x.stride() else None


@_for("add_.Tensor sub_.Tensor mul_.Tensor div_.Tensor")
def _binary_(a: torch.Tensor, b: torch.Tensor, **options: float) -> torch.Tensor | None:
    same = isinstance(b, torch.Tensor) and a.is_floating_point() and a.dtype == b.dtype
    return a if same and a.shape == b.shape and 0 not in a.stride() else None


@_for("clone.default")
def _clone(x: torch.Tensor, *, memory_format: torch.memory_format | None = None) -> torch.Tensor | None:
    if memory_format is torch.contiguous_format:
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return _like(x) if memory_format in (None, torch.preserve_format) else None


@_for("masked_fill.Scalar")
def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor | None:
    fits = x.is_contiguous() and mask.dtype == torch.bool and _broadcasts(mask, x)
    return _like(x) if fits else None


@_for("mean.dim sum.dim_IntList")
def _reduce(
    x: torch.Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> torch.Tensor | None:
    if not dim or dtype is not None or not x.is_floating_point():
        return None
    gone = {d % x.dim() for d in dim if -x.dim() <= d < x.dim()}
    if len(gone) < len(dim):  # out of range, or twice: PyTorch raises
        return None
    shape = [1 if i in gone else n for i, n in enumerate(x.shape) if keepdim or i not in gone]
    return torch.empty(shape, dtype=x.dtype, device="meta")


@_for("linalg_vector_norm.default")
def _vector_norm(
    x: torch.Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | None:
    return _reduce(x, dim, keepdim, dtype=dtype)


@_for("_softmax.default _log_softmax.default")
def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor | None:
    if not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        # PyTorch's own kernel does not check.
        raise IndexError(f"Dimension out of range for a tensor of {x.dim()} dimensions: {dim}")
    fits = x.is_contiguous() and not half_to_float and x.is_floating_point()
    return _like(x) if fits else None


@_for("_safe_softmax.default")
def _safe_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor | None:
    return _softmax(x, dim, dtype is not None)


@_for("roll.default")
def _roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor | None:
    fits = x.is_contiguous() and dims and len(shifts) == len(dims)
    return _like(x) if fits and all(-x.dim() <= d < x.dim() for d in dims) else None


@_for("_grouped_mm.default")  # since torch 2.8
def _grouped_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor | None:
    """Grouped matrix products in float32, which a CPU accepts; PyTorch's `meta` kernel checks as a GPU."""
    groups = [len(x) for x in (a, b) if x.dim() == 3] + ([] if offs is None else [len(offs)])
    fits = (
        a.dtype == b.dtype == (out_dtype or torch.float32) == torch.float32
        and a.shape[-1] == b.shape[-2]
        and len(set(groups)) == 1
        and (offs is None) is (a.dim() == b.dim() == 3)
    )
    if not fits:
        return None
    # Groups of rows or columns lie side by side in the result; batched groups have a dimension of their own.
    own = groups[:1] if a.dim() == b.dim() else []
    return torch.empty((*own, a.shape[-2], b.shape[-1]), dtype=a.dtype, device="meta")


@_for("cat.default")
def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor | None:
    first = tensors[0]
    axes = first.dim()
    if not axes or not -axes <= dim < axes or not all(_joins(x, first, dim % axes) for x in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum([x.shape[dim] for x in tensors])
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _joins(x: torch.Tensor, first: torch.Tensor, dim: int) -> bool:
    """Whether ``x`` is contiguous and has the dtype and sizes of ``first``, except along ``dim``."""
    return (
        x.is_meta
        and x.dtype == first.dtype
        and x.is_contiguous()
        and x.numel() > 0
        and x.shape[:dim] == first.shape[:dim]
        and x.shape[dim + 1 :] == first.shape[dim + 1 :]
    )


@_for("upsample_nearest2d.default upsample_bilinear2d.default")
def _upsample(x: torch.Tensor, output_size: Sequence[int], *_: float | None) -> torch.Tensor | None:
    """Resizing without PyTorch's own kernel, which imports the compiler (2 s)."""
    fits = (
        x.dim() == 4 and x.is_contiguous() and x.is_floating_point() and min(*x.shape[1:], *output_size) > 1
    )
    return torch.empty((*x.shape[:2], *output_size), dtype=x.dtype, device="meta") if fits else None
