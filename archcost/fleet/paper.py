"""A model on paper, as plain values: its distinct convolutions, and its other operations by kind.

Nothing is executed. This is all that is known of a model when its time on a device is estimated.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from archcost.errors import SpecError
from archcost.fleet.errors import FleetError
from archcost.fleet.tasks import is_code

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.trace.graph import Op, Trace

__all__ = ["expanded", "of_analysis", "of_program", "on_paper", "refuse_code"]


def expanded(patterns: Iterable[str]) -> list[str]:
    """The SPECs that SPECs and patterns name, each once: ``torchvision:*`` is every classifier there.

    Raises:
        SpecError: a pattern matches no model.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        source, _, name = pattern.partition(":")
        if not any(sign in name for sign in "*?[") or is_code(pattern):
            found[pattern] = None
            continue
        if source == "timm":
            import timm

            names = timm.list_models(name)
        else:
            from archcost.models.vision import names as every
            from archcost.models.vision import task_of

            names = [one for one in fnmatch.filter(every(), name) if task_of(one) == "classification"]
        if not names:
            raise SpecError(f"fleet: no model matches {pattern!r}")
        found |= dict.fromkeys(f"{source}:{one}" for one in names)
    return list(found)


def refuse_code(spec: str, allowed: bool) -> None:
    """Refuse a SPEC that is a file or a module where its code is not to run.

    Raises:
        FleetError: it is one.
    """
    if is_code(spec) and not allowed:
        raise FleetError(
            f"fleet: {spec} is code, which this worker does not run; start it with --allow-code if you trust "
            "whoever sends it"
        )


def on_paper(
    spec: str, batches: Sequence[int], allow_code: bool = False, programs: bool = False
) -> list[dict[str, Any]]:
    """The model that a SPEC names, at each number of images; with ``programs`` as a program as well."""
    import torch

    from archcost.analysis.analysis import analyze
    from archcost.trace.call import like_traced

    refuse_code(spec, allow_code)
    first = analyze(spec, progress=False)
    found = []
    for batch in batches:
        whole, call = first, like_traced(first.trace)
        sizes = [one.shape[0] if one.dim() else 0 for one in call.tensors]
        if sizes and sizes[0] and sizes[0] != batch:

            def change(one: torch.Tensor, batch: int = batch, size: int = sizes[0]) -> torch.Tensor:
                same = one.dim() and one.shape[0] == size
                return one.new_ones((batch, *one.shape[1:])) if same else one

            whole = analyze(spec, call.mapped(change), progress=False)
        program = {"program": of_program(whole.trace)} if programs else {}
        found.append({**of_analysis(whole, batch), "model": spec, **program})
    return found


def of_analysis(analysis: Analysis, batch: int | None = None) -> dict[str, Any]:
    """An Analysis on paper, as `on_paper` gives it."""
    from archcost.latency.convolutions import convolutions_of
    from archcost.latency.store.measurement import spec_json
    from archcost.trace.graph import refs

    calls = convolutions_of(analysis.trace)
    counts = Counter((call.task, call.layout) for call in calls if call.task is not None)
    others: dict[str, list[int]] = {}
    products = Counter[tuple[int, ...]]()
    for op, cost in zip(analysis.trace.ops, analysis.costs.ops, strict=True):
        # A view moves nothing: its output is in no storage that the operation wrote.
        if op.base == "aten.convolution" or not op.writes:
            continue
        moved = sum(one.nbytes for one in (*op.tensors(), *op.outputs))
        found = others.setdefault(op.label, [0, 0, 0])
        for at, more in enumerate((1, moved, _compared(op) if "max_pool" in op.label else cost.macs or 0)):
            found[at] += more
        if op.label in ("mm", "addmm", "bmm", "baddbmm"):
            *_, left, right = (one.shape for one in op.tensors())
            sizes = (*left, right[-1])
            products[sizes] += 1
    if batch is None:
        shapes = [ref.shape for ref in refs(analysis.trace.inputs)]
        batch = shapes[0][0] if shapes and shapes[0] else 1
    return {
        "model": analysis.name,
        "batch": batch,
        "input": analysis.input_text,
        "params": analysis.total.params,
        "macs": analysis.total.macs,
        "convolutions": [
            {"spec": json.loads(spec_json(task.spec)), "dtype": task.dtype, "layout": layout, "count": count}
            for (task, layout), count in counts.items()
            if task is not None
        ],
        # By operator: calls, bytes read and written, multiply-accumulates (of maximum pooling, values read).
        "operations": others,
        # Of matrices, or of as many pairs of them: rows, inner and columns, and how often.
        "products": [[*size, count] for size, count in products.items()],
    }


def _compared(op: Op) -> int:
    """Number of values that the windows of maximum pooling read, each as often as it is read."""
    from math import prod

    if "adaptive" in op.label:
        return prod(next(iter(op.tensors())).shape)
    size = cast("list[int]", op.args[1])
    axes = int(op.label.partition("pool")[2][0])  # max_pool2d_with_indices
    return prod(op.outputs[0].shape) * prod(size * axes if len(size) == 1 else size)


def of_program(trace: Trace) -> dict[str, Any]:
    """The program of a traced model on paper: layers, and bytes of what else it does; or ``refused``."""
    from math import prod

    from archcost.engine.on_paper import graph_on_paper, layer_of
    from archcost.engine.reading.registry import Refused

    try:
        nodes = graph_on_paper(trace).nodes
    except Refused as why:
        return {"refused": str(why)}
    layers, others = Counter[str](), dict[str, list[int]]()
    for node in nodes:
        layer = layer_of(node)
        if layer is not None:
            layers[layer] += 1
            continue
        found = others.setdefault(type(node.operator).__name__, [0, 0])
        found[0] += 1
        found[1] += 4 * sum(prod(one.shape) for one in (*node.inputs, *node.outputs))
    return {
        "layers": [[layer, count] for layer, count in layers.items()],
        # By operator: how many, and bytes read and written.
        "others": others,
    }
