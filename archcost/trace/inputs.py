"""Inputs: tensors in nested structures, example tensors of a shape, and what the first layer takes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

from archcost.errors import InputError
from archcost.trace.modules import ModuleTree

if TYPE_CHECKING:
    import torch
    from torch import nn

# Spatial sizes tried in turn when nothing says which one the model is for: ImageNet's first, then others
# that a fixed classifier is likely to have been built for.
IMAGE_SIZES = (224, 32, 28, 64, 256, 299, 96, 128, 384, 512)
SEQUENCE_LENGTH = 128

S = TypeVar("S")

Inputs: TypeAlias = object
"""A model's inputs as users give them: tensors, tuples, dicts, dataclasses, or whatever its forward takes."""
InputSize: TypeAlias = "int | Sequence[InputSize] | Mapping[str, InputSize]"
"""A shape, or a list or dict of shapes, nested as the inputs are that it describes: see `make`."""
DTypes: TypeAlias = "torch.dtype | str | Sequence[DTypes | None] | Mapping[str, DTypes | None]"
"""A dtype for all inputs, or a list or dict of dtypes; a string is a dtype's name."""

Shape = tuple[int, ...]
Guess = tuple["Shape | dict[str, Shape]", "torch.dtype | dict[str, torch.dtype] | None", str]
"""(shape, dtype, the assumption in words), or shapes and dtypes by name; None is the dtype of the weights."""


def check_tensors(inputs: Inputs, where: str = "inputs") -> None:
    """Raise InputError for a numpy array or an image among ``inputs``, with the conversion to write."""
    if isinstance(inputs, (tuple, list)):
        for number, item in enumerate(inputs):
            check_tensors(item, f"{where}[{number}]")
    elif isinstance(inputs, Mapping):
        for key, item in inputs.items():
            check_tensors(item, f"{where}[{key!r}]")
    elif hasattr(inputs, "__array_interface__"):
        kind = type(inputs)
        if kind.__module__ == "numpy":
            text = "a numpy array"
            as_tensor = "torch.from_numpy(x)" + ".float()" * (getattr(inputs, "dtype", None) == "float64")
        else:
            text, as_tensor = f"a {kind.__module__}.{kind.__name__}", "torch.as_tensor(numpy.asarray(x))"
        raise InputError(f"{where} is {text}, but the model takes tensors: write {as_tensor}")


def map_tensors(value: S, change: Callable[[torch.Tensor], torch.Tensor]) -> S:
    """``value`` with ``change`` applied to every tensor in tuples, lists, mappings and dataclasses."""
    mapped: S = _mapped(value, change)
    return mapped


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        # Its batch sizes are a tensor that stays on the CPU.
        moved = {key: _mapped(getattr(value, key), change) for key in value._fields if key != "batch_sizes"}
        return value._replace(**moved)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)._make(_mapped(item, change) for item in value)  # type: ignore[attr-defined]
    if type(value) in (tuple, list, set, frozenset):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, Mapping):
        changed = {key: _mapped(item, change) for key, item in value.items()}
        if type(value) is dict:
            return changed
        if not isinstance(value, MutableMapping):
            return type(value)(changed)  # type: ignore[call-arg]
        mapping: Any = copy.copy(value)
        if mapping is not value and hasattr(mapping, "__dict__"):
            # A shallow copy may share the dict that it wraps.
            vars(mapping).update({k: copy.copy(v) for k, v in vars(mapping).items() if isinstance(v, dict)})
        for key, item in changed.items():
            if item is not value[key]:
                mapping[key] = item
        return mapping
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                old = getattr(value, field.name)
                new = _mapped(old, change)
                if new is not old:
                    object.__setattr__(result, field.name, new)
        return result
    return value


def tensors_in(value: Inputs) -> list[torch.Tensor]:
    """All tensors in tuples, lists, mappings and dataclasses, in order."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found


def make(
    input_size: InputSize, dtype: DTypes | None, model_dtype: torch.dtype, device: torch.device | str
) -> tuple[tuple[Inputs, ...], dict[str, Inputs]]:
    """Example inputs, as positional and keyword arguments.

    Args:
        input_size: a shape, a list of shapes, or a dict of shapes by argument name. In a list, a shape
            makes a tensor argument and a list of shapes an argument that is a list of tensors:
            ``[[(3, 800, 800)]]`` fits torchvision's detection models. A dict of shapes makes a dict of
            tensors.
        dtype: a dtype for all inputs, or a list (dict) of dtypes; None takes ``model_dtype``.
        model_dtype: the dtype of the model's weights.
        device: the device of the tensors.

    Returns:
        Tensors uniform in [0, 1) from a fixed seed; zeros for integers, which are valid indices.

    Raises:
        InputError: an entry is no shape, or there are not as many dtypes as inputs.
    """
    if isinstance(input_size, Mapping):
        by_name = dtype if isinstance(dtype, Mapping) else dict.fromkeys(input_size, dtype)
        return (), {
            name: _examples(size, by_name.get(name) or model_dtype, device, f"input_size[{name!r}]")
            for name, size in input_size.items()
        }
    sizes: Sequence[InputSize] = [input_size]
    if isinstance(input_size, (list, tuple)) and input_size and not isinstance(input_size[0], int):
        sizes = input_size
    dtypes = list(dtype) if isinstance(dtype, (list, tuple)) else [dtype] * len(sizes)
    if len(dtypes) != len(sizes):
        raise InputError(
            f"dtype: {len(dtypes)} dtypes for {len(sizes)} inputs; pass a single dtype or one per input"
        )
    return tuple(
        _examples(size, one or model_dtype, device) for size, one in zip(sizes, dtypes, strict=True)
    ), {}


def _examples(
    size: InputSize, dtype: DTypes, device: torch.device | str, where: str = "input_size"
) -> Inputs:
    """A tensor for a shape; a list or dict of tensors for a list or dict of shapes."""
    if isinstance(size, Mapping):
        return {key: _examples(one, dtype, device, f"{where}[{key!r}]") for key, one in size.items()}
    if isinstance(size, list) and size and not isinstance(size[0], int):
        return [_examples(one, dtype, device, where) for one in size]
    return example(size, dtype, device, where)


def example(
    size: InputSize, dtype: DTypes, device: torch.device | str, where: str = "input_size"
) -> torch.Tensor:
    """A tensor of one shape: uniform in [0, 1) from a fixed seed, or zeros for integers."""
    import torch

    dtype = as_dtype(dtype)
    if not _is_shape(size):
        raise InputError(
            f"{where}: {size!r} is not a shape; pass the whole shape, batch included: (1, 3, 224, 224)"
        )
    if torch.device(device).type == "meta":
        return torch.empty(tuple(size), dtype=dtype, device="meta")
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.zeros(tuple(size), dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tuple(size), generator=generator).to(device, dtype)


def _is_shape(size: InputSize) -> TypeGuard[Sequence[int]]:
    if not isinstance(size, Sequence) or isinstance(size, (str, bytes)):
        return False
    return all(isinstance(n, int) and n > 0 for n in size)


_SHORT = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}


def as_dtype(value: DTypes) -> torch.dtype:
    """The torch dtype for a dtype or its name: ``float16``, ``torch.float16``, ``half``, ``fp16``.

    Raises:
        InputError: there is no such dtype.
    """
    import torch

    name = value.removeprefix("torch.").lower() if isinstance(value, str) else ""
    found = getattr(torch, _SHORT.get(name, name), None) if name else value
    if not isinstance(found, torch.dtype):
        raise InputError(f"dtype: {value!r} is not a torch dtype; pass for example torch.float32 or 'int64'")
    return found


def floating(dtype: DTypes | None) -> torch.dtype | None:
    """The dtype, if it is a single floating-point dtype for all inputs; else None."""
    found = None if dtype is None or isinstance(dtype, (list, tuple, Mapping)) else as_dtype(dtype)
    return found if found is not None and found.is_floating_point else None


def dtype_of(tree: ModuleTree) -> torch.dtype:
    """The dtype of the first floating-point weight, or else of the first complex PyTorch layer, or float32.

    Complex weights outside PyTorch's layers do not tell the input's dtype: they may multiply its Fourier
    transform.
    """
    import torch

    complex_: list[torch.dtype] = []
    for module in tree.modules.values():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                return tensor.dtype
            if tensor is not None and tensor.is_complex() and type(module).__module__.startswith("torch.nn."):
                complex_.append(tensor.dtype)
    return complex_[0] if complex_ else torch.float32


def from_first_layer(tree: ModuleTree) -> list[Guess]:
    """Input shapes that the first layer takes, those worth trying first; empty where it does not tell."""
    import torch

    for name, module in tree.modules.items():
        kind = type(module).__name__
        where = f"{name or 'the model'} ({kind})"
        if isinstance(module, torch.nn.Embedding):
            size: tuple[int, ...] = (1, SEQUENCE_LENGTH)
            return [(size, torch.int64, _assumed(size, where, "integers: the first layer is an embedding"))]
        if isinstance(module, torch.nn.RNNBase):
            size = (1, SEQUENCE_LENGTH, module.input_size)
            return [(size, None, _assumed(size, where, f"{module.input_size} features"))]
        channels = getattr(module, "in_channels", None)
        axes = _axes(module)
        if isinstance(channels, int) and axes:
            reason = f"{channels} channel{'s' * (channels != 1)}"
            if axes == 1:
                return [((1, channels, 1024), None, _assumed((1, channels, 1024), where, reason))]
            if axes == 3:
                size = (1, channels, 16, 112, 112)
                return [(size, None, _assumed(size, where, reason))]
            sizes = [(1, channels, n, n) for n in IMAGE_SIZES]
            return [(size, None, _assumed(size, where, reason)) for size in sizes]
        features = getattr(module, "in_features", None)
        if isinstance(features, int):
            return [((1, features), None, _assumed((1, features), where, f"{features} features"))]
    return []


def _axes(module: nn.Module) -> int:
    """Spatial axes of a convolution-like module, quantized ones included; 0 for anything else."""
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple):
        return len(kernel)
    dims = getattr(getattr(module, "weight", None), "dim", None)
    return max(dims() - 2, 0) if callable(dims) else 0


def _assumed(size: tuple[int, ...], where: str, reason: str) -> str:
    return f"input size {times(size)} assumed: the first layer, {where}, takes {reason}"


def times(size: Shape) -> str:
    """A shape as text: ``1x3x224x224``."""
    return "x".join(map(str, size))
