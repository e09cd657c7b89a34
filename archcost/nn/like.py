"""ConvLike: a replacement of a convolution with the same attributes and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from archcost.errors import RewriteError
from archcost.nn import adapters
from archcost.paths.algorithms.framework import CONVOLUTIONS
from archcost.paths.convolve import spec_of
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["READ_BY_PARENTS", "ConvLike"]

READ_BY_PARENTS = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
    *("transposed", "output_padding", "groups", "padding_mode"),
)
"""The attributes of a convolution that other code reads, and may set."""


class ConvLike(nn.Module):
    """Has the attributes of the convolution that it replaces, and its very parameters.

    Keys of ``state_dict`` stay as they are, optimisers keep their hold, and `plain` computes what the
    convolution did, bit for bit. Subclasses that keep something made from the weights drop it in `forget`.
    """

    _version = 1  # of its state_dict, as torch.nn's convolutions have it
    weight: nn.Parameter
    bias: nn.Parameter | None
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, ConvLike) and not adapters.known(layer):
            raise RewriteError(
                f"{type(layer).__name__} cannot be replaced: it is neither one of torch.nn's convolutions "
                f"nor has archcost.nn.adapters an adapter for it"
            )
        for name in READ_BY_PARENTS:
            value = getattr(layer, name)
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        # As torch.nn pads beforehand by other modes than zeros: worked out once, whatever is set later.
        self._reversed_padding_repeated_twice: list[int] = list(layer._reversed_padding_repeated_twice)  # type: ignore[arg-type]
        given = layer.padding_rule if isinstance(layer, ConvLike) else adapters.padding_of(layer)
        self.padding_rule: adapters.Padding | None = given
        """The padding by input size, where ``padding`` does not say it; else None."""
        self.register_parameter("weight", layer._parameters["weight"])
        self.register_parameter("bias", layer._parameters["bias"])
        self.training = layer.training

    @property
    def axes(self) -> int:
        """The number of spatial axes: 1, 2 or 3."""
        return len(self.kernel_size)

    def spec(self, input_size: Sequence[int], batch: int = 1) -> ConvSpec:
        """The `ConvSpec` for inputs of this spatial size.

        Raises:
            InputError: the kernel does not fit an input of that size.
        """
        padding: str | Sequence[int | tuple[int, int]] = self.padding
        mode = self.padding_mode
        if self.padding_rule is not None:
            padding, mode = self.padding_rule(self, tuple(input_size)), "zeros"
        elif self.padding_mode != "zeros":
            flat = self._reversed_padding_repeated_twice
            padding = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
        x = torch.empty(batch, self.in_channels, *input_size, device="meta", dtype=self.weight.dtype)
        return spec_of(
            x,
            self.weight.detach().to("meta"),
            None if self.bias is None else self.bias.detach().to("meta"),
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            transposed=self.transposed,
            output_padding=self.output_padding,
            padding_mode=mode,
        )

    def plain(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """The output of the replaced layer, by the same calls of PyTorch."""
        function = CONVOLUTIONS[self.transposed][self.axes]
        if self.transposed:
            extra = self._output_padding(x, output_size)
            return function(
                x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
            )
        padding: int | str | tuple[int, ...] = self.padding
        if self.padding_rule is not None:
            pairs = self.padding_rule(self, tuple(x.shape[-self.axes :]))
            x, padding = F.pad(x, [side for pair in reversed(pairs) for side in pair]), 0
        elif self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def forget(self) -> None:
        """Drop everything made from the weights, which are about to change."""

    def extra_repr(self) -> str:
        said = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        defaults = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != (default,) * self.axes:
                said += f", {name}={value}"
        said += f", groups={self.groups}" * (self.groups != 1) + ", bias=False" * (self.bias is None)
        return said + f", padding_mode={self.padding_mode!r}" * (self.padding_mode != "zeros")

    def _output_padding(self, x: torch.Tensor, output_size: list[int] | None) -> Sequence[int]:
        if output_size is None:
            return self.output_padding
        # torch.nn's own arithmetic and messages; it reads nothing of the layer but what is here too.
        how: Callable[..., list[int]] = nn.modules.conv._ConvTransposeNd._output_padding
        return how(
            self, x, output_size, self.stride, self.padding, self.kernel_size, self.axes, self.dilation
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in READ_BY_PARENTS:
            self.forget()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.forget()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)
