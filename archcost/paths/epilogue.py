"""Epilogue: clamp and memory layout of a path's output, after the bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archcost.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["PLAIN", "Epilogue"]


@dataclass(frozen=True)
class Epilogue:
    """The clamp and layout of outputs; a path applies them as it writes, where it can.

    >>> import torch
    >>> Epilogue(clamp=(0, 6)).applied(torch.tensor([[[-1.0, 3.0, 7.0]]]))
    tensor([[[0., 3., 6.]]])
    """

    clamp: tuple[float, float] | None = None
    """Limits of the outputs: (0, inf) is ReLU, (0, 6) is ReLU6."""
    memory_format: torch.memory_format | None = None
    """The layout of the output; None leaves it to the path: that of the input, for most."""
    keeps_nan: bool = True
    """Whether NaN stays NaN; False lets a path write a limit there, as oneDNN's own activations do."""

    def __reduce__(
        self,
    ) -> tuple[Callable[..., Epilogue], tuple[tuple[float, float] | None, str | None, bool]]:
        # By its name: the layout itself cannot be pickled by protocols below 4, as torch.save's is.
        name = None if self.memory_format is None else str(self.memory_format).removeprefix("torch.")
        return _unpickled, (self.clamp, name, self.keeps_nan)

    def check(self, axes: int) -> None:
        """Raises InputError where limits or layout make no sense for outputs of so many spatial axes."""
        if self.clamp is not None and not self.clamp[0] <= self.clamp[1]:
            raise InputError(f"Epilogue: clamp={self.clamp!r}, expected (low, high) with low <= high")
        if self.memory_format is not None:
            import torch

            known = [torch.contiguous_format, *_channels_last(axes)]
            if self.memory_format not in known:
                names = " or ".join(map(str, known))
                raise InputError(
                    f"Epilogue: memory_format={self.memory_format}, expected {names} for {axes} spatial axes"
                )

    def applied(self, y: Tensor, like: Tensor | None = None) -> Tensor:
        """The output clamped and laid out, in place where no gradient needs its old values.

        Args:
            y: (batch, channels, *spatial).
            like: has the layout to take where the epilogue has none; without it, the output's stays.
        """
        if self.clamp is not None:
            y = y.clamp(*self.clamp) if y.requires_grad else y.clamp_(*self.clamp)
        layout = self.memory_format or (None if like is None else layout_of(like))
        return y if layout is None else y.contiguous(memory_format=layout)


def _unpickled(clamp: tuple[float, float] | None, layout: str | None, keeps_nan: bool) -> Epilogue:
    import torch

    return Epilogue(clamp, None if layout is None else getattr(torch, layout), keeps_nan)


PLAIN = Epilogue()


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last where channels are next to each other in memory, else contiguous."""
    import torch

    found = _channels_last(x.dim() - 2)
    return found[0] if found and x.shape[1] > 1 and x.stride(1) == 1 else torch.contiguous_format


def _channels_last(axes: int) -> list[torch.memory_format]:
    import torch

    return {2: [torch.channels_last], 3: [torch.channels_last_3d]}.get(axes, [])
