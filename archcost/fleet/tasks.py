"""The tasks of a fleet: distinct layers, products of matrices and whole models, as small plain values.

A task says nothing of seconds: its key names what is measured, so that the same task of another run, however
long it may take, is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

from archcost.fleet.errors import FleetError
from archcost.latency.store.measurement import StoreError, spec_from_json, spec_json
from archcost.spec import ConvSpec

__all__ = [
    *("Layer", "Model", "Paths", "Probe", "Product", "Step", "Task"),
    *("from_record", "is_code", "tasks_of"),
]

Paths = tuple[str, ...] | Literal["all", "likely"]
"""Names of paths, or all that can execute a layer, or those that may be fast."""


@dataclass(frozen=True)
class Task:
    """A measurement that is made once for each device."""

    @cached_property
    def key(self) -> str:
        """The kind, and a digest of all values: the same in every process."""
        text = json.dumps(self.record(), sort_keys=True, separators=(",", ":"))
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    @property
    def kind(self) -> str:
        """The class in lower case."""
        return type(self).__name__.lower()

    def record(self) -> dict[str, Any]:
        """Plain values, which `from_record` reads."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Layer(Task):
    """A distinct convolution on its paths, alone."""

    spec: ConvSpec
    dtype: str
    threads: int
    paths: Paths

    def record(self) -> dict[str, Any]:
        return {**super().record(), "spec": json.loads(spec_json(self.spec))}


@dataclass(frozen=True)
class Product(Task):
    """A distinct product of matrices, alone, as PyTorch computes it: a linear layer, or a batch of pairs."""

    sizes: tuple[int, ...]
    """Pairs of matrices where there are several, then rows, inner and columns."""
    threads: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.sizes)

    def __str__(self) -> str:
        *pairs, rows, inner, columns = self.sizes
        return f"{' x '.join(map(str, [*pairs, '']))}({rows} x {inner}) @ ({inner} x {columns})"


@dataclass(frozen=True)
class Step(Task):
    """A distinct layer of programs, alone, as archcost's engine runs it with all that is fused into it."""

    layer: str
    """As `archcost.engine.on_paper.layer_of` writes it."""
    threads: int

    def __str__(self) -> str:
        found = json.loads(self.layer)
        return f"{found['operator']['type']} of {found['inputs']}"


@dataclass(frozen=True)
class Model(Task):
    """A whole model's forward pass: as PyTorch runs it, or as one program of archcost's engine."""

    model: str
    """Its SPEC."""
    batch: int
    threads: int
    how: Literal["eager", "program"] = "eager"


@dataclass(frozen=True)
class Probe(Task):
    """The reference product alone, which shows whether a device has settled."""

    threads: int = 1


_KINDS: dict[str, type[Task]] = {one.__name__.lower(): one for one in (Layer, Product, Step, Model, Probe)}


def from_record(record: Mapping[str, Any]) -> Task:
    """The task that `Task.record` wrote.

    Raises:
        FleetError: it is none.
    """
    try:
        values = dict(record)
        made = _KINDS[values.pop("kind")]
        if made is Product:
            values["sizes"] = tuple(values["sizes"])
        if made is Layer:
            values["spec"] = spec_from_json(json.dumps(values["spec"]))
            values["paths"] = values["paths"] if isinstance(values["paths"], str) else tuple(values["paths"])
        return made(**values)
    except (KeyError, TypeError, ValueError, StoreError) as error:
        raise FleetError(f"fleet: no task: {error!r}") from error


def is_code(spec: str) -> bool:
    """Whether a SPEC names a file or a module, whose code building the model would run."""
    return spec.partition(":")[0] not in ("torchvision", "timm")


def tasks_of(
    papers: Iterable[Mapping[str, Any]],
    threads: Sequence[int],
    paths: Paths,
    how: Sequence[Literal["eager", "program"]] = ("eager",),
) -> list[Task]:
    """The tasks of models on paper (see `archcost.fleet.paper`): whole models, and each distinct layer once.

    Whole models come first: they take longest, and show at once which of them cannot run.
    """
    models: dict[str, Task] = {}
    layers: dict[str, Task] = {}
    for paper in papers:
        for count in threads:
            for one in how:
                model = Model(paper["model"], paper["batch"], count, one)
                models[model.key] = model
            for *sizes, _ in paper["products"]:
                product = Product(tuple(sizes), count)
                layers[product.key] = product
            for found in paper["convolutions"]:
                layer = Layer(spec_from_json(json.dumps(found["spec"])), found["dtype"], count, paths)
                layers[layer.key] = layer
            for text, _ in paper.get("program", {}).get("layers", ()) if "program" in how else ():
                step = Step(text, count)
                layers[step.key] = step
    return [*models.values(), *layers.values()]
