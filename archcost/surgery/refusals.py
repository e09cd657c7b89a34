"""Why a convolution may not be replaced, judged from the layer alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from archcost.nn import adapters
from archcost.nn.like import ConvLike
from archcost.trace.modules import type_name

__all__ = ["HOOKS", "hooks_of", "is_convolution", "is_linear", "why_not", "wraps"]

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
    "_state_dict_pre_hooks": "state_dict pre-hook",
    "_state_dict_hooks": "state_dict hook",
    "_load_state_dict_pre_hooks": "load_state_dict pre-hook",
    "_load_state_dict_post_hooks": "load_state_dict hook",
}
"""The attributes of a module in which hooks are registered, and the names of their kinds."""

_REWEIGHT: dict[type, tuple[str, str]] = {
    WeightNorm: ("weight_norm", "torch.nn.utils.remove_weight_norm(module)"),
    SpectralNorm: ("spectral_norm", "torch.nn.utils.remove_spectral_norm(module)"),
    BasePruningMethod: ("pruning", "torch.nn.utils.prune.remove(module, 'weight')"),
}
_QUANTIZED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.qat", "torch.nn.intrinsic", "torch.ao.quant")
_CALLED = ("forward", "_conv_forward", "_call_impl")


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution: PyTorch's, a subclass, scripted, or of another package."""
    if isinstance(module, torch.jit.ScriptModule):
        return type_name(module) in {kind.__name__ for kind in adapters.PLAIN_TYPES}
    if isinstance(module, (_ConvNd, ConvLike)):
        return True
    named = (getattr(module, name, None) for name in ("in_channels", "out_channels"))
    if not all(isinstance(number, int) for number in named) or not hasattr(module, "kernel_size"):
        return False
    return "weight" in module._parameters or _is_quantized(type(module))


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: PyTorch's, or a subclass."""
    return isinstance(module, nn.Linear)


def why_not(module: nn.Module) -> str | None:
    """Why a convolution may not be replaced, for reasons of the layer alone; None where it may."""
    return next(_reasons(module), None)


def _reasons(module: nn.Module) -> Iterator[str]:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        yield "it is a ScriptModule: rewrite the model before torch.jit compiles it"
        return
    if isinstance(module, ConvLike):
        yield "it has been replaced already: undo that first, or start from the original model"
    if any(is_lazy(p) for p in module._parameters.values() if p is not None):
        yield "it is lazy and has no weights yet: run a forward pass, model(example), first"
    parametrized = getattr(module, "parametrizations", None)
    if isinstance(parametrized, nn.ModuleDict) and len(parametrized):
        name = next(iter(parametrized))
        yield (
            f"its {name} is parametrized: remove that with "
            f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
        )
    for hook in module._forward_pre_hooks.values():
        for type_, (what, mend) in _REWEIGHT.items():
            if isinstance(hook, type_):
                yield f"its weight is recomputed at each call by {what}: remove that with {mend}"
    if _is_quantized(kind) or getattr(module, "qconfig", None) is not None:
        trained = ".qat" in kind.__module__ or isinstance(module, _ConvNd)
        state = "prepared for quantization" if trained else "quantized"
        yield f"it is {state}: rewrite the float model, and quantize the result"
    linear = type(module) is nn.Linear
    known = linear or adapters.known(module)
    if not known and is_linear(module):
        yield f"it is a {kind.__name__}, a subclass of Linear, and may compute something else"
    elif not known:
        yield adapters.why_unknown(module)
    overridden = [name for name in _CALLED if name in vars(module)]
    if overridden:
        yield f"its {overridden[0]} was replaced on this object, by unknown code"
    if getattr(module, "_compiled_call_impl", None) is not None:
        yield "it is compiled: compile after rewriting"
    yield from _odd_tensors(
        module, not linear and known and isinstance(adapters.padding_of(module), adapters.Fixed)
    )


def _odd_tensors(module: nn.Module, read: bool) -> Iterator[str]:
    """Why parameters, buffers or children are unusual; ``read``: children are known from the operations."""
    extra = [key for key in (*module._parameters, *module._buffers) if key not in ("weight", "bias")]
    extra += [key for key, child in module._modules.items() if child is not None and not read]
    if extra or not isinstance(module._parameters.get("weight"), torch.Tensor):
        yield (
            f"it has more than weight and bias: {', '.join(extra)}"
            if extra
            else "its weight is not a parameter"
        )
    for key, parameter in module._parameters.items():
        if parameter is not None and type(parameter) is not nn.Parameter:
            yield f"its {key} is a {type(parameter).__name__}, not an ordinary parameter"


def hooks_of(module: nn.Module) -> tuple[str, ...]:
    """The kinds of hooks registered on a module."""
    return tuple(what for table, what in HOOKS.items() if vars(module).get(table))


def wraps(module: nn.Module) -> str | None:
    """Why modules inside a wrapper may not be replaced; None where they may."""
    kind = type(module)
    if kind.__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
        return "is compiled: rewrite model._orig_mod, and compile the result"
    for base in kind.__mro__:
        if base.__module__.startswith(("torch.distributed.", "torch.nn.parallel.")):
            return f"is a {base.__name__}, which keeps a list of the parameters: rewrite first, then wrap"
    return None


def _is_quantized(kind: type) -> bool:
    return any(base.__module__.startswith(_QUANTIZED) for base in kind.__mro__)
