"""PhasedPath: a path that executes plain convolutions, by tensor operations or by a compiled kernel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from archcost.kernels.blocked import FEW_CHANNELS, BlockedConvolution
from archcost.kernels.operators import convolve
from archcost.paths.algorithms.space_to_depth import blocks_of, rearranged_elements, rearranged_taps, spread
from archcost.paths.algorithms.tensor import Fused, TensorPath, device_of, kernels_run
from archcost.paths.compiled import Kernel, PackedWeights, on_blocks
from archcost.paths.geometry import by_groups, trailing
from archcost.paths.path import Implementation, Prepared
from archcost.paths.phases import (
    Dense,
    Phase,
    bordered,
    bordered_elements,
    folded,
    is_dense,
    phase_elements,
    phases,
    unfolded,
)
from archcost.paths.precision import compute_dtype
from archcost.spec import ConvSpec

__all__ = ["PhasedPath"]

Part = Tensor | PackedWeights


@dataclass(frozen=True)
class Parts:
    """Phases and weights of the convolution that is executed in place of the given one."""

    spec: ConvSpec
    phases: tuple[Phase, ...]
    weights: tuple[Part, ...]
    blocks: bool
    """Whether ``spec`` is executed by `archcost.paths.algorithms.space_to_depth`."""


class PhasedPath(TensorPath[Parts]):
    """A path that executes `Dense` convolutions, and so any convolution by its phases.

    Each phase runs a compiled kernel where `_choice` has one for it, else tensor operations.
    """

    def implementation(
        self, spec: ConvSpec, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> Implementation:
        choice = self._choice(self._executed(spec), dtype or torch.float32, device)
        if not any(choice):
            return "tensor operations"
        return "compiled" if all(choice) else "partly compiled"

    def on_blocks(self, prepared: Prepared) -> BlockedConvolution | None:
        content, spec = prepared.content, prepared.spec
        if not isinstance(content, Fused) or not self.reads_blocks(spec, prepared.dtype):
            return None
        if not content.blocks:
            return on_blocks(content.packed, prepared)
        before = lambda x: blocks_of(x, spec).contiguous()  # noqa: E731
        return on_blocks(content.packed, prepared, self._executed(spec), before)

    def reads_blocks(self, spec: ConvSpec, dtype: torch.dtype | None = None) -> bool:
        """Also where few channels are read in NCHW, each stride's pixels as channels of their own."""
        executed = self._executed(spec)
        as_channels = executed == spread(spec) and spec.in_channels <= FEW_CHANNELS
        if dtype not in (None, torch.float32) or not is_dense(executed):
            return False
        if not as_channels and executed is not spec:
            return False
        (kernel,) = self._choice(executed, torch.float32, "cpu")
        return kernel is not None and kernel.reads_blocks

    def _choice(self, spec: ConvSpec, dtype: torch.dtype, device: str) -> list[Kernel | None]:
        """The compiled kernel of each phase, None where tensor operations run: all choices are made here."""
        usable = kernels_run(dtype, device)
        return [self._kernel(phase.dense) if usable else None for phase in phases(spec)]

    def _kernel(self, dense: Dense) -> Kernel | None:
        """The compiled kernel that computes what `_dense` does, None where there is none."""
        return None

    def _executed(self, spec: ConvSpec) -> ConvSpec:
        """The convolution whose phases are computed: this one; the same with stride 1, to discard from; or
        the same by `archcost.paths.algorithms.space_to_depth`."""
        return spec

    def _prepare(self, weight: Tensor, spec: ConvSpec) -> Parts | Fused:
        """Each phase's taps, transformed in float64: packed, or a tensor in the dtype computed in."""
        executed = self._executed(spec)
        exact = by_groups(weight.double(), spec)
        blocks = executed == spread(spec)
        if blocks:
            exact = rearranged_taps(exact, spec)
        weights: list[Part] = []
        choice = self._choice(executed, weight.dtype, device_of(weight))
        for phase, kernel in zip(phases(executed), choice, strict=True):
            taps = exact[trailing(axis.kernel for axis in phase.axes)]
            if spec.transposed:
                taps = taps.flip(tuple(range(-spec.axes, 0)))
            if kernel is None:
                weights.append(self._transform(taps, phase.dense).to(compute_dtype(weight.dtype)))
                continue
            packed = kernel.pack(taps)
            if _is_one_call(executed) and (blocks or executed is spec):
                ones = (1,) * spec.axes
                return Fused(packed, phase.dense.padding, ones, ones, blocks)
            weights.append(packed)
        return Parts(executed, phases(executed), tuple(weights), blocks)

    def _run(self, x: Tensor, content: Parts, spec: ConvSpec) -> Tensor:
        if content.blocks:
            return self._sum(blocks_of(x, spec), content)
        y = self._sum(x, content)
        if content.spec is spec:
            return y
        return y[trailing(slice(None, None, step) for step in spec.stride)]

    def _sum(self, x: Tensor, content: Parts) -> Tensor:
        """All phases, added up."""
        spec, parts = content.spec, content.phases
        x, offsets = bordered(x, spec, parts)
        if len(parts) == 1 and not spec.transposed:
            return self._one(x, content.weights[0], parts[0], offsets)
        y = x.new_zeros(x.shape[0], spec.out_channels, *spec.output_size)
        for phase, weight in zip(parts, content.weights, strict=True):
            window = trailing(slice(axis.writes, None, axis.writes_every) for axis in phase.axes)
            y[window] += self._one(x, weight, phase, offsets)
        return y

    def _one(self, x: Tensor, weight: Part, phase: Phase, offsets: list[int]) -> Tensor:
        seen = trailing(
            slice(axis.reads + offset, axis.last_read + offset + 1, axis.reads_every)
            for axis, offset in zip(phase.axes, offsets, strict=True)
        )
        x = folded(x[seen], phase)
        if isinstance(weight, Tensor):
            return unfolded(self._dense(x, weight, phase.dense), phase)
        return unfolded(convolve(x, weight, padding=phase.dense.padding), phase)

    def multiplications(self, spec: ConvSpec) -> int:
        return sum(self._products(phase.dense) for phase in phases(self._executed(spec)))

    def transform_multiplications(self, spec: ConvSpec) -> int:
        return sum(self._transforms(phase.dense) for phase in phases(self._executed(spec)))

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        """The padded input, all weights transformed, and the buffers of the largest phase.

        Several phases also need a phase's pixels and its outputs on their own. Of a compiled kernel, packed
        weights and working memory are what the library says of them, with as many threads as PyTorch has now.
        """
        dtype = torch.float32 if itemsize == 4 else torch.float64
        return self._bytes(spec, itemsize, self._choice(self._executed(spec), dtype, "cpu"))

    def _bytes(self, spec: ConvSpec, itemsize: int, choice: list[Kernel | None] | None = None) -> int:
        """The workspace in bytes with these kernels; by tensor operations alone where none are given."""
        executed = self._executed(spec)
        parts = phases(executed)
        weights = largest = 0
        for phase, kernel in zip(parts, choice or [None] * len(parts), strict=True):
            own = itemsize * phase_elements(executed, phase)
            if kernel is None:
                weights += itemsize * self._weights(phase.dense)
                own += itemsize * self._buffers(phase.dense)
            else:
                weights += kernel.packed_bytes()
                own += kernel.scratch_bytes() + _copied_bytes(phase)
            largest = max(largest, own)
        discarded = 0 if executed is spec else executed.neurons - spec.neurons
        copied = rearranged_elements(spec) if executed == spread(spec) else bordered_elements(executed, parts)
        return itemsize * (copied + discarded) + weights + largest

    def _is_packed(self, content: Parts | Fused) -> bool:
        return isinstance(content, Fused) or not all(isinstance(one, Tensor) for one in content.weights)

    @abstractmethod
    def _transform(self, taps: Tensor, dense: Dense) -> Tensor:
        """(groups, out, in, *kernel_size) in float64 to what `_dense` wants."""

    @abstractmethod
    def _dense(self, x: Tensor, weight: Tensor, dense: Dense) -> Tensor:
        """(batch, in_channels, *input_size), unpadded, to (batch, out_channels, *output_size)."""

    @abstractmethod
    def _products(self, dense: Dense) -> int:
        """Multiplications of data by weights."""

    @abstractmethod
    def _transforms(self, dense: Dense) -> int:
        """Multiplications by constants, the weights' transform apart."""

    @abstractmethod
    def _weights(self, dense: Dense) -> int:
        """Elements of the transformed weights."""

    @abstractmethod
    def _buffers(self, dense: Dense) -> int:
        """Elements of the largest buffers that exist at a time, input and output apart."""


def _is_one_call(spec: ConvSpec) -> bool:
    """Whether its only phase is all of it, once padding by another mode than zeros is written out."""
    steps = (*spec.stride, *spec.dilation)
    return not spec.transposed and max(steps) == 1


def _copied_bytes(phase: Phase) -> int:
    """A kernel wants pixels of a row side by side: those that a stride parts are copied first."""
    if phase.axes[-1].reads_every == 1:
        return 0
    return 4 * phase.dense.batch * phase.dense.in_channels * prod(phase.dense.input_size)
