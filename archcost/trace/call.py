"""Call: how a model is called. Made once, of what a user gives as ``inputs``, and handed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from archcost.errors import InputError
from archcost.trace.inputs import example, map_tensors, tensors_in

if TYPE_CHECKING:
    import torch

    from archcost.trace.graph import TensorRef, Trace

__all__ = ["Call", "like_traced"]


class Call(NamedTuple):
    """The arguments of one call of a model or a layer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: Any) -> Call:
        """A tuple is positional arguments, a dict keyword arguments, anything else the one argument.

        A text alone is none: it is meant for another argument, as the name of a layer is.

        Raises:
            InputError: a dict whose keys are no names, or a text.
        """
        if isinstance(inputs, Call):
            return inputs
        if type(inputs) is tuple:
            return cls(inputs, {})
        if type(inputs) is dict:
            bad = [key for key in inputs if not isinstance(key, str)]
            if bad:
                raise InputError(
                    f"inputs: a dict is keyword arguments, but {bad[0]!r} is no name. To pass the dict "
                    f"itself as the one argument, put it in a tuple: ({{...}},)"
                )
            return cls((), inputs)
        if isinstance(inputs, (str, bytes)):
            raise InputError(
                f"inputs is the text {inputs!r}, and no input. A layer goes by its name: layer={inputs!r}. "
                f"For a model that takes a text, put it into a tuple: ({inputs!r},)"
            )
        return cls((inputs,), {})

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of them, in order, those in structures included."""
        return tensors_in(self)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same with every tensor changed; one that is given twice stays one."""
        made: dict[int, torch.Tensor] = {}

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = change(tensor)
            return made[id(tensor)]

        return map_tensors(self, once)

    def cloned(self) -> Call:
        """For a model or a layer that may write into its input, or to outlast what does.

        One tensor given twice stays one.
        """
        made: dict[int, torch.Tensor] = {}

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = tensor.detach().clone()
            return made[id(tensor)]

        return self.mapped(copy)

    def on(self, device: torch.device | str) -> Call:
        """On a device, in tensors of their own, so that none of the caller's can change shape.

        Where the device is the same they share memory.

        Raises:
            InputError: a tensor is nested.
        """

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_nested:
                raise InputError(
                    "inputs: a NestedTensor has rows of different lengths, which no shape says; give a "
                    "padded tensor, as nested.to_padded_tensor(0.0)"
                )
            copy = tensor.detach().to(device)
            return copy.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copy

        return self.mapped(move)


def like_traced(trace: Trace, make: Callable[[TensorRef], Any] | None = None) -> Call:
    """The call that was traced, with example tensors of its shapes; one that was given twice is one again.

    Args:
        make: makes a tensor; by default as `inputs.example` does, on the CPU.
    """
    from archcost.trace.graph import TensorRef

    made: dict[TensorRef, Any] = {}

    def real(value: Any) -> Any:
        if isinstance(value, TensorRef):
            if value not in made:
                made[value] = example(value.shape, value.dtype, "cpu") if make is None else make(value)
            return made[value]
        if isinstance(value, (tuple, list)):
            return type(value)(map(real, value))
        if isinstance(value, dict):
            return {key: real(item) for key, item in value.items()}
        return value

    return Call(*real(tuple(trace.inputs)))
