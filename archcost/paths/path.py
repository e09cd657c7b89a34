"""ExecutionPath: what every way to execute a convolution can do, and say of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import InputError
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.geometry import Axes
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import torch

__all__ = ["ExecutionPath", "Implementation", "Prepared"]

Implementation = Literal["compiled", "partly compiled", "tensor operations", "PyTorch"]


@dataclass(frozen=True)
class Prepared:
    """Weights made ready for one path and one convolution; ``content`` is the path's own.

    Weights that change afterwards must be prepared again.
    """

    spec: ConvSpec
    content: Any
    bias: torch.Tensor | None
    dtype: torch.dtype
    """Of the weights given, and so of the inputs to come."""
    epilogue: Epilogue = PLAIN
    weight: torch.Tensor | None = None
    """As it was given, where ``content`` has no gradients: then PyTorch runs what needs some."""
    trains: bool = False
    """Whether weight or bias wanted gradients when they were prepared."""
    input_shape: Axes = field(init=False, repr=False)
    """Of an input, the batch apart."""

    def __post_init__(self) -> None:
        shape = (self.spec.in_channels, *self.spec.input_size)
        object.__setattr__(self, "input_shape", shape)


class ExecutionPath(ABC):
    """One way to execute a convolution. A variant is an instance of its own: ``winograd-4``, ``fft-16``.

    Inputs are (batch, channels, *spatial) in any memory format, weights as ``torch.nn.ConvNd`` has them.
    """

    name: str
    """As in ``archcost.convolve(..., path=name)``."""
    idea: str
    """What it does, in one line."""
    limits: str
    """What it can execute, in one line."""
    source: str
    """The paper or formula that it comes from."""

    @abstractmethod
    def supports(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> str | None:
        """None, or the reason why it cannot execute this convolution (in this dtype, where one is given)."""

    @abstractmethod
    def prepare(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        spec: ConvSpec,
        epilogue: Epilogue = PLAIN,
    ) -> Prepared:
        """Do once what depends on the weights alone; the epilogue is what `run` does to its outputs.

        Raises:
            InputError: the path does not support the convolution, or the weights have another shape.
        """

    @abstractmethod
    def run(self, x: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        """(batch, in_channels, *input_size) to (batch, out_channels, *output_size), any batch.

        Gradients flow. Where weights are packed beyond PyTorch's sight, it runs PyTorch's own convolution
        while gradients are recorded, if the input wants any, or weight or bias did when prepared.

        Raises:
            InputError: the input has another shape or dtype than was prepared for.
        """

    def implementation(
        self, spec: ConvSpec, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Implementation:
        """What runs: the compiled kernels, for all phases or some, tensor operations, PyTorch's convolution.

        Chosen once, in `prepare`, by what this machine has. The dtype is float32 where none is given.
        """
        return "tensor operations"

    def compiled_for(self) -> str:
        """The convolutions that compiled kernels serve on this machine, in one line; empty where none are."""
        return ""

    @abstractmethod
    def multiplications(self, spec: ConvSpec) -> int:
        """Real multiplications of data by weights in one run; those of transforms are not among them."""

    def transform_multiplications(self, spec: ConvSpec) -> int:
        """Real multiplications by constants in the transforms of one run: none, where there is no transform.

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

    def __repr__(self) -> str:
        return f"<path {self.name}>"
