"""Composite operators, decomposed on `meta` as a CPU decomposes them.

PyTorch chooses by device, and on `meta` it falls back to what runs anywhere: attention as plain
products, which would count the N x N scores as memory, and recurrent layers step by step. Under a dispatch
mode it also adds the bias of a linear layer into a new tensor, where it otherwise writes into the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._mode_utils import no_dispatch

from archcost.trace.recording.meta import of_one_dtype
from archcost.trace.recording.recurrent import OPERATORS, bind, one_dnn, runs_on_one_dnn
from archcost.trace.recording.tensors import Returned
from archcost.trace.recording.turns import this_thread

aten = torch.ops.aten

# Versions since when a CPU fuses attention with grouped queries, and with three dimensions or one key head.
# (`TorchVersion` compares numbers, not letters.)
_FUSES_GROUPED, _FUSES_MORE = torch.__version__ >= "2.9", torch.__version__ >= "2.14"


@contextlib.contextmanager
def operators_as_on_cpu() -> Iterator[None]:
    """A context in which composite operators on `meta` decompose as on a CPU."""
    library = torch.library.Library("aten", "IMPL")
    try:
        for operator, kernel in AS_ON_CPU.items():
            library.impl(operator.name().removeprefix("aten::"), kernel, "AutogradMeta")
        yield
    finally:
        library._destroy()


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if bias is not None and x.dim() == 2:
        return aten.addmm(bias, x, weight.t())
    if bias is not None and x.dim() > 2 and not x.is_contiguous():
        return aten.matmul(x, weight.t()).add_(bias)
    return aten.linear.default.decompose(x, weight, bias)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    of_one_dtype(query, key, value)
    if attn_mask is not None and (
        attn_mask.dim() < 2 or attn_mask.dtype not in (torch.bool, torch.float32, query.dtype)
    ):
        raise RuntimeError(
            f"attn_mask must be bool, float32 or {query.dtype} and have 2 dimensions or more, got "
            f"{attn_mask.dtype} with {attn_mask.dim()}"
        )
    if _FUSES_MORE and query.dim() == key.dim() == value.dim() == 3:
        if attn_mask is not None and attn_mask.dim() in (2, 3):
            attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
        query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        return _attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        ).squeeze(0)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        number = partial(torch.scalar_tensor, dtype=query.dtype, device=attn_mask.device)
        attn_mask = torch.where(attn_mask, number(0.0), number(float("-inf")))
    if not _fuses(query, key, value, attn_mask, dropout_p, enable_gqa):
        return aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
    if attn_mask is not None and is_causal:
        raise RuntimeError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal"
        )
    return aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]


def _fuses(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    grouped: bool,
) -> bool:
    """Whether a CPU runs fused attention: the conditions of ``use_flash_attention_cpp`` in PyTorch."""
    if not (dropout_p == 0 and query.dim() == key.dim() == value.dim() == 4):
        return False
    heads, shared = query.shape[1], key.shape[1]
    return (
        query.shape[0] == key.shape[0] == value.shape[0]
        and shared == value.shape[1]
        and (
            heads == shared
            or (_FUSES_MORE and shared == 1)
            or (_FUSES_GROUPED and grouped and shared > 0 and heads % shared == 0)
        )
        and query.shape[3] == key.shape[3] == value.shape[3]
        and query.shape[2] > 0
        and key.shape[2] > 0
        and query.stride(3) == key.stride(3) == value.stride(3) == 1
        and (mask is None or _masks(mask, (*query.shape[:3], key.shape[2])))
    )


def _masks(mask: torch.Tensor, scores: tuple[int, ...]) -> bool:
    fits = all(n in (1, m) for n, m in zip(reversed(mask.shape), reversed(scores), strict=False))
    return fits and mask.dim() in (2, 4) and not mask.requires_grad


def _max_pool1d(x: torch.Tensor, *options: Sequence[int] | bool) -> torch.Tensor:
    """Max pooling without indices, which a CPU does not compute without gradients."""
    recorder = getattr(this_thread, "recorder", None)
    if recorder is None or (torch.is_grad_enabled() and x.requires_grad):
        return aten.max_pool1d.default.decompose(x, *options)
    with no_dispatch():
        like = aten.max_pool1d.default.decompose(x, *options)
        result = torch.empty_like(like, memory_format=torch.contiguous_format)
    return recorder.whole(aten.max_pool1d.default, (x, *options), [result])[0]


def _recurrent(operator: OpOverload, *args: Any) -> tuple[torch.Tensor, ...]:
    layers = bind(operator, *args)
    recorder = getattr(this_thread, "recorder", None)
    of_one_dtype(layers.x, *layers.states, layers.params[0])
    if recorder is None or not layers.fits():
        return operator.decompose(*args)
    if runs_on_one_dnn(layers):
        return one_dnn(layers)
    results = recorder.recurrent(layers, args)
    return operator.decompose(*args) if results is None else tuple(results)


AS_ON_CPU: dict[OpOverload, Callable[..., Returned]] = {
    aten.linear.default: _linear,
    aten.scaled_dot_product_attention.default: _attention,
    aten.max_pool1d.default: _max_pool1d,
    **{operator: partial(_recurrent, operator) for operator in OPERATORS},
}
"""Operator -> its decomposition on a CPU; under inference_mode such operators arrive whole."""
