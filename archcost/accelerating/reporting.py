"""From what was measured and chosen to the `Acceleration` that goes with the model."""

from __future__ import annotations

from typing import Any

import torch

from archcost.accelerating.acceleration import Acceleration, LayerAcceleration
from archcost.accelerating.choosing import Choice
from archcost.accelerating.contest import Took, candidates
from archcost.accelerating.finals import Final, Result
from archcost.accelerating.layers import Kept, Layer
from archcost.accelerating.layouts import CHANNELS_LAST
from archcost.accelerating.preparing import Asked
from archcost.latency.store.fingerprint import fingerprint
from archcost.paths.likely import without_kernel
from archcost.paths.registry import get
from archcost.trace.inputs import tensors_in

__all__ = ["report", "unchanged"]


def unchanged(asked: Asked, kept: list[Kept], reason: str) -> Acceleration:
    """Of a model in which nothing could be measured."""
    return _acceleration(asked, False, reason, "as it was", tuple(_of_kept(one) for one in kept))


def report(asked: Asked, final: Final, result: Result, kept: list[Kept]) -> Acceleration:
    """Of a model that was timed."""
    wall = asked.threads > 1
    times = [
        None if timing is None else 1e3 * (timing.wall_median if wall else timing.median)
        for timing in (result.original, result.accelerated)
    ]
    lines = [_of_layer(final, layer, result) for layer in final.network.layers]
    changed = result.chosen is not None
    original_error = final.original_error if final.exact else None
    dtypes = {str(layer.task.dtype).removeprefix("torch.") for layer in final.network.layers}
    return _acceleration(
        asked,
        changed,
        result.reason,
        result.chosen or "as it was",
        (*lines, *(_of_kept(one) for one in kept)),
        ratio=result.ratio,
        original_ms=times[0],
        accelerated_ms=times[1],
        samples=0 if result.accelerated is None else result.accelerated.kept,
        dropped=0 if result.accelerated is None else result.accelerated.dropped,
        error=result.error if changed else original_error,
        original_error=original_error,
        reference=final.reference,
        dtype=", ".join(sorted(dtypes)),
        notes=result.notes,
    )


def _acceleration(
    asked: Asked,
    changed: bool,
    reason: str | None,
    variant: str,
    layers: tuple[LayerAcceleration, ...],
    **found: Any,
) -> Acceleration:
    given = tensors_in(asked.inputs)
    nothing: dict[str, Any] = {
        **dict.fromkeys(("ratio", "original_ms", "accelerated_ms", "error", "original_error")),
        **{"samples": 0, "dropped": 0, "reference": "original"},
        "dtype": str(given[0].dtype).removeprefix("torch.") if given else "unknown",
    }
    return Acceleration(
        model_name=asked.name,
        changed=changed,
        reason=reason,
        variant=variant,
        layers=layers,
        tolerance=asked.tolerance,
        device=str(fingerprint()),
        threads=asked.threads,
        batch=given[0].shape[0] if given and given[0].dim() else None,
        torch=str(torch.__version__),
        fold=asked.fold,
        keeps_nan=asked.keeps_nan,
        **{**nothing, **found},
    )


def _of_kept(one: Kept) -> LayerAcceleration:
    return LayerAcceleration(
        name=one.name,
        type_name=one.type_name,
        spec=one.spec,
        path="native",
        layout="",
        takes_over=(),
        reason=one.reason,
        **dict.fromkeys(("native_ms", "ms", "spread_ms", "error", "multiplications", "workspace_bytes")),
    )


def _of_layer(final: Final, layer: Layer, result: Result) -> LayerAcceleration:
    took = final.found.get(layer.name, {})
    choice = result.choices.get(layer.name, Choice("native", 0, 0, 0.0))
    native = [one.seconds for (path, _), one in took.items() if path == "native"]
    here: Took | None = took.get((choice.path, choice.reads))
    over = () if choice is None or not result.choices else (layer.chain.batch_norm, layer.chain.activation)
    replaced = bool(result.choices)
    path = get(choice.path)
    reason = None
    if not replaced:
        reason = "the model stays as it was"
    elif not took:
        reason = "there was no time to measure it"
    elif choice.path == "native":
        reason = f"no path that was timed is faster beyond the noise{_left_out(final.asked, layer)}"
    return LayerAcceleration(
        name=layer.name,
        type_name=type(layer.module).__name__,
        spec=layer.spec,
        path=choice.path,
        layout=_layout(choice) if replaced else "",
        takes_over=tuple(name for name in over if name is not None),
        native_ms=1e3 * min(native) if native else None,
        ms=None if here is None else 1e3 * here.seconds,
        spread_ms=None if here is None else 1e3 * here.spread,
        error=final.errors.get((layer.name, choice.path)),
        reason=reason,
        multiplications=path.multiplications(layer.spec),
        workspace_bytes=path.workspace_bytes(layer.spec, layer.weight.element_size()),
    )


def _left_out(asked: Asked, layer: Layer) -> str:
    """How many paths were not timed because no compiled kernel runs them."""
    _, refused = candidates(layer.task, asked.paths)
    return without_kernel(refused)


def _layout(choice: Choice) -> str:
    names = ["channels_last" if label == CHANNELS_LAST else "NCHW" for label in (choice.reads, choice.writes)]
    return names[0] if names[0] == names[1] else " to ".join(names)
