"""Call: the positional and keyword arguments with which a model is called, made from ``inputs=``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from archcost.errors import InputError
from archcost.trace.inputs import Inputs, example, map_tensors, tensors_in

if TYPE_CHECKING:
    import torch

    from archcost.trace.graph import TensorRef, Trace

__all__ = ["Call", "Inputs", "like_traced"]


class Call(NamedTuple):
    """The arguments of one call of a model or a layer."""

    args: tuple[Inputs, ...]
    kwargs: dict[str, Inputs]

    @classmethod
    def of(cls, inputs: Inputs) -> Call:
        """The Call that ``inputs`` stands for.

        Args:
            inputs: a tuple is positional arguments, a dict is keyword arguments, anything else is the only
                argument. A Call is returned as it is.

        Raises:
            InputError: a dict with keys that are not strings; or a string, which is probably a layer's name.
        """
        if isinstance(inputs, Call):
            return inputs
        if type(inputs) is tuple:
            return cls(inputs, {})
        if type(inputs) is dict:
            bad = [key for key in inputs if not isinstance(key, str)]
            if bad:
                raise InputError(
                    f"inputs: a dict is keyword arguments, but its key {bad[0]!r} is not a string. To pass "
                    f"the dict itself as the only argument, put it in a tuple: ({{...}},)"
                )
            return cls((), inputs)
        if isinstance(inputs, (str, bytes)):
            raise InputError(
                f"inputs is the string {inputs!r}, not a tensor. To choose a layer, write layer={inputs!r}. "
                f"For a model that takes a string, put it in a tuple: ({inputs!r},)"
            )
        return cls((inputs,), {})

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors among the arguments, in order, including those in lists, dicts and dataclasses."""
        return tensors_in(self)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same call with ``change`` applied to each tensor, once for a tensor that is passed twice."""
        made: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = change(tensor)
            return made[id(tensor)]

        return Call(map_tensors(self.args, once), map_tensors(self.kwargs, once))

    def cloned(self) -> Call:
        """The same call with copies of its tensors, which a model may overwrite.

        A tensor that is passed twice is copied once.
        """
        made: dict[int, torch.Tensor] = {}

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = tensor.detach().clone()
            return made[id(tensor)]

        return self.mapped(copy)

    def on(self, device: torch.device | str) -> Call:
        """The same call on ``device``, in new tensor objects, so that the caller's keep their shapes.

        Memory is shared where the device is the same.

        Raises:
            InputError: a tensor is a NestedTensor.
        """

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_nested:
                raise InputError(
                    "inputs: a NestedTensor has rows of different lengths, so that no shape describes it; "
                    "pass a padded tensor: nested.to_padded_tensor(0.0)"
                )
            copy = tensor.detach().to(device)
            return copy.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copy

        return self.mapped(move)


def like_traced(trace: Trace, make: Callable[[TensorRef], torch.Tensor] | None = None) -> Call:
    """The traced call again, with example tensors of the same shapes and dtypes.

    A tensor that was passed twice is made once.

    Args:
        trace: the forward pass whose inputs are made.
        make: the function that makes a tensor from its TensorRef; by default `inputs.example`, on the CPU.
    """
    from archcost.trace.graph import TensorRef

    made: dict[TensorRef, torch.Tensor] = {}

    def real(value: Inputs) -> Inputs:
        if isinstance(value, TensorRef):
            if value not in made:
                made[value] = example(value.shape, value.dtype, "cpu") if make is None else make(value)
            return made[value]
        if isinstance(value, (tuple, list)):
            return type(value)(map(real, value))
        if isinstance(value, dict):
            return {key: real(item) for key, item in value.items()}
        return value

    args, kwargs = trace.inputs
    return Call(tuple(map(real, args)), {key: real(value) for key, value in kwargs.items()})
