"""Training mode: notes on operations that inference would not run, or would run differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archcost.trace.graph import Op, Trace

if TYPE_CHECKING:
    from torch import nn

__all__ = ["mode_note", "training_only"]

# Arguments of the batch norms of all backends: the fourth is the running mean, the sixth says training.
_RUNNING_MEAN, _TRAINING = 3, 5


def training_only(trace: Trace) -> tuple[str, ...]:
    """Behaviour of modules in training mode that differs from eval mode, in words; empty if none."""
    training = {name for name, info in trace.modules.items() if info.training}
    if not training:
        return ()
    found = {_what(op): None for op in trace.ops if trace.module_of(op) in training}
    return tuple(what for what in found if what is not None)


def _what(op: Op) -> str | None:
    if "batch_norm" in op.name and len(op.args) > _TRAINING:
        # Without running statistics those of the batch serve in eval mode as well.
        by_batch = op.args[_TRAINING] is True and op.args[_RUNNING_MEAN] is not None
        return "batch norms use the statistics of the batch" if by_batch else None
    if op.base in ("aten.bernoulli_", "aten.bernoulli", "aten.native_dropout"):
        return "dropout is active"
    return (
        "RReLU draws random slopes"
        if op.base.startswith("aten.rrelu_with_noise") and True in op.args
        else None
    )


def mode_note(trace: Trace, model: nn.Module) -> tuple[str, ...]:
    """The note that a model in training mode behaves differently from inference; empty if it does not."""
    found = training_only(trace)
    if not found:
        return ()
    mend = "export it in eval mode" if "eval" in vars(model) else "call model.eval() first"
    return (f"the model is in training mode, where {' and '.join(found)}; for inference {mend}",)
