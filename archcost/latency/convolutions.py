"""The convolutions of a model: the `ConvSpec` of each call, and real tensors for each distinct one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from archcost.errors import ArchcostError
from archcost.latency.timing.passing import as_it_is, passed
from archcost.spec import ConvSpec
from archcost.trace.call import Call
from archcost.trace.graph import Args, Kwargs, Op, TensorRef, Trace
from archcost.trace.modules import walk

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ConvCall", "ConvTask", "ConvTensors", "convolutions_of", "layout_of", "samples_of"]

R = TypeVar("R")
_MODULES = frozenset(f"Conv{kind}{axes}d" for kind in ("", "Transpose") for axes in (1, 2, 3))


@dataclass(frozen=True)
class ConvTask:
    """A distinct convolution: measured once for all calls that share it."""

    spec: ConvSpec
    dtype: str
    """The dtype of input and weights, as in ``float32``."""


@dataclass(frozen=True)
class ConvCall:
    """A convolution that a forward pass ran."""

    name: str
    """The name of the module that ran it, as in ``named_modules()``."""
    type: str
    """The class of that module."""
    call: int
    """0 for the module's first call in a pass, 1 for the second."""
    task: ConvTask | None
    alone: bool
    """Whether the module did nothing else in that call, so that its own time is the convolution's."""
    refusal: str | None = None
    """Why no path can be timed for it, and ``task`` is None."""
    layout: str = "contiguous"
    """The layout of its input as the model runs it: ``contiguous`` or ``channels_last``."""


@dataclass(frozen=True, eq=False)
class ConvTensors:
    """Real input, weight and bias of a convolution."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None


def convolutions_of(trace: Trace) -> tuple[ConvCall, ...]:
    """Every convolution of a traced forward pass, in the order in which they ran."""
    made: dict[int, list[Op]] = {}
    for op in trace.ops:
        made.setdefault(op.call, []).append(op)
    seen: Counter[str] = Counter()
    nth = {}
    for call in trace.calls:
        nth[call.index] = seen[call.module]
        seen[call.module] += 1
    found = []
    for op in trace.ops:
        if op.base != "aten.convolution":
            continue
        name, together = trace.module_of(op), made[op.call]
        kind = trace.modules[name].type_name
        several = sum(other.base == op.base for other in together) > 1
        alone = len(together) == 1 or (kind in _MODULES and not several)
        task, refusal = _task(op.args)
        found.append(ConvCall(name, kind, nth[op.call], task, alone, refusal, layout_of(op.args[0])))
    return tuple(found)


def layout_of(x: TensorRef) -> str:
    """The memory layout of a traced tensor: ``contiguous`` or ``channels_last``."""
    order = sorted(range(len(x.shape)), key=lambda axis: (-x.stride[axis], axis))
    several = [axis for axis in order if x.shape[axis] > 1]
    last = len(x.shape) > 3 and several and several[-1] == 1 and x.shape[1] > 1
    return "channels_last" if last and x.stride[1] == 1 else "contiguous"


def samples_of(model: nn.Module, call: Call, tasks: Sequence[ConvTask]) -> dict[ConvTask, ConvTensors]:
    """Input, weight and bias of the first convolution of each task, copied during one forward pass.

    The model, its buffers, the random states and the inputs stay as they were.

    Args:
        model: in the mode in which it is to be measured.
        call: its inputs, on the device of the model.
        tasks: the convolutions wanted.

    Returns:
        The tensors by task; a task that the pass did not run is missing.

    Raises:
        ModelError: the model's forward raised.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    wanted, found = set(tasks), dict[ConvTask, ConvTensors]()

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone()

    class Recording(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # Else the first operation imports torch.compile's machinery, which takes seconds.
            return False

        def __torch_dispatch__(
            self,
            func: Callable[..., R],
            types: Collection[type],
            args: Args = (),
            kwargs: Kwargs | None = None,
        ) -> R:
            if func is torch.ops.aten.convolution.default:
                task, _ = _task(args)
                if task in wanted and task not in found:
                    # Cloned, for what comes later may write into it; weights may be computed as well.
                    x, weight, bias = args[:3]
                    found[task] = ConvTensors(copy(x), copy(weight), None if bias is None else copy(bias))
            return func(*args, **(kwargs or {}))

    args, kwargs = call.cloned()
    with as_it_is(walk(model)), Recording():
        passed(lambda: model(*args, **kwargs), "measured")
    return found


def _task(args: Args) -> tuple[ConvTask | None, str | None]:
    """The task of a call of aten.convolution by its arguments (tensors, or a Trace's); or why it has none."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    axes, inputs, outputs = len(x.shape) - 2, weight.shape[1] * groups, weight.shape[0]
    if transposed:
        inputs, outputs = weight.shape[0], weight.shape[1] * groups

    def each(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values) if len(values) == axes else tuple(values) * axes

    try:
        spec = ConvSpec(
            in_channels=inputs,
            out_channels=outputs,
            kernel_size=tuple(weight.shape[2:]),
            stride=each(stride),
            padding=each(padding),
            dilation=each(dilation),
            groups=groups,
            transposed=transposed,
            output_padding=each(output_padding),
            bias=bias is not None,
            input_size=tuple(x.shape[2:]),
            batch=x.shape[0],
        )
    except ArchcostError as error:
        return None, str(error)
    if not x.dtype.is_floating_point:
        return None, f"paths compute in floating point, not in {str(x.dtype).removeprefix('torch.')}"
    return ConvTask(spec, str(x.dtype).removeprefix("torch.")), None
