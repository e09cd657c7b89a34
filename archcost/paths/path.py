"""ExecutionPath: the interface of every way to execute a convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import InputError
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import Axes, weight_shape
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from archcost.kernels.blocked import BlockedConvolution

__all__ = ["ExecutionPath", "Implementation", "Prepared"]

Implementation = Literal["compiled", "partly compiled", "tensor operations", "PyTorch"]


@dataclass(frozen=True)
class Prepared:
    """Weights prepared for a path and a convolution.

    Weights that change afterwards must be prepared again.
    """

    spec: ConvSpec
    content: Any
    """The weights in the path's own form."""
    bias: Tensor | None
    dtype: torch.dtype
    """The dtype of the weights, and so of the inputs."""
    epilogue: Epilogue = PLAIN
    weight: Tensor | None = None
    """The original weight, where ``content`` has no gradients: PyTorch then runs calls that need them."""
    trains: bool = False
    """Whether weight or bias wanted gradients when they were prepared."""
    input_shape: Axes = field(init=False, repr=False)
    """The shape of an input without the batch."""

    def __post_init__(self) -> None:
        shape = (self.spec.in_channels, *self.spec.input_size)
        object.__setattr__(self, "input_shape", shape)


class ExecutionPath(ABC):
    """A way to execute a convolution. Each variant is an instance of its own: ``winograd-4``, ``fft-16``.

    Inputs are (batch, channels, *spatial) in any memory format, weights as ``torch.nn.ConvNd`` has them.
    """

    name: str
    """The name for ``archcost.convolve(..., path=name)``."""
    idea: str
    """The algorithm, in one line."""
    limits: str
    """The convolutions that it can execute, in one line."""
    source: str
    """The paper or formula that it comes from."""

    @abstractmethod
    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        """None, or the reason why it cannot execute this convolution (in this dtype, where one is given)."""

    @abstractmethod
    def prepare(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> Prepared:
        """Prepare the weights once for all inputs.

        Args:
            weight: as ``torch.nn.ConvNd`` has it.
            bias: (out_channels,).
            spec: the convolution.
            epilogue: clamp and layout that `run` gives to its outputs.

        Raises:
            InputError: the path does not support the convolution, or the weights have another shape.
        """

    @abstractmethod
    def run(self, x: Tensor, prepared: Prepared) -> Tensor:
        """Convolve (batch, in_channels, *input_size), any batch, to (batch, out_channels, *output_size).

        Gradients flow. A path whose packed weights have no gradients runs PyTorch's own convolution where
        gradients are recorded and the input requires one, or weight or bias did when prepared.

        Raises:
            InputError: the input has another shape or dtype than was prepared for.
        """

    def on_blocks(self, prepared: Prepared) -> BlockedConvolution | None:
        """The same from and to blocked tensors, the layout of the engine's layers, in float32 on the CPU.

        It records no gradients, and PyTorch's dispatcher does not see it. Of the epilogue it has the clamp.

        Returns:
            A function of a blocked input; None where not `reads_blocks`.
        """
        return None

    def reads_blocks(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> bool:
        """Whether there is a kernel for `on_blocks`; the dtype is float32 where none is given."""
        return False

    def implementation(
        self, spec: ConvSpec, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Implementation:
        """The code that runs: compiled kernels for all or some phases, tensor operations, or PyTorch's own.

        Chosen once, in `prepare`, for this machine. The dtype is float32 where none is given.
        """
        return "tensor operations"

    def compiled_for(self) -> str:
        """The convolutions that compiled kernels execute on this machine, in one line; empty if none."""
        return ""

    @abstractmethod
    def multiplications(self, spec: ConvSpec) -> int:
        """Real multiplications of data by weights in a run, without those of transforms."""

    def transform_multiplications(self, spec: ConvSpec) -> int:
        """Real multiplications by constants in the transforms of a run; 0 where there is no transform.

        The weights' own transform is done once, in `prepare`, and is not counted.
        """
        return 0

    @abstractmethod
    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int | None:
        """Memory beside input, output and the caller's own weights, prepared weights included.

        ``itemsize`` is that of the numbers computed with: 4 for float32 and the half types, 8 for float64.
        For a contiguous input on the CPU, and what `implementation` runs there. None where it is not known.
        """

    @abstractmethod
    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The largest max |y - exact| / max |exact| to expect of normally distributed inputs and weights.

        Held by the tests. Inputs and weights of another kind may do better or worse: what counts for a
        layer is ``archcost.paths.relative_error`` with its own weights.
        """

    def check(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> None:
        """Raises InputError with the reason where the path does not support the convolution."""
        reason = self.supports(spec, dtype)
        if reason is not None:
            raise InputError(f"path {self.name!r} cannot execute this convolution: {reason}")

    def check_weights(
        self, weight: Tensor, bias: Tensor | None, spec: ConvSpec, epilogue: Epilogue = PLAIN
    ) -> None:
        """Raises InputError where the path refuses the convolution, or tensors or epilogue do not fit it."""
        self.check(spec, weight.dtype)
        shapes = {"weight": (weight, weight_shape(spec)), "bias": (bias, (spec.out_channels,))}
        for what, (tensor, shape) in shapes.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InputError(
                    f"path {self.name!r}: {what} has shape {tuple(tensor.shape)}, expected {shape} for {spec}"
                )
        epilogue.check(spec.axes)

    def check_input(self, x: Tensor, prepared: Prepared) -> None:
        """Raises InputError where the input is not what the weights were prepared for."""
        if x.shape[1:] != prepared.input_shape:
            given, sizes = tuple(x.shape), ", ".join(map(str, prepared.input_shape))
            raise InputError(f"path {self.name!r}: input has shape {given}, expected (batch, {sizes})")
        if x.dtype != prepared.dtype:
            raise InputError(f"path {self.name!r}: input is {x.dtype}, the weights are {prepared.dtype}")

    def __repr__(self) -> str:
        return f"<path {self.name}>"
