"""Plans written as JSON and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import nn

from archcost.errors import ArchcostError, RewriteError
from archcost.merging.chain import Activation, ChainStep, Conv, Kept
from archcost.report.values import Json
from archcost.rewriting.proposal import PlaceCosts, Proposal, Raced
from archcost.rewriting.replacement import Replacement
from archcost.spec import ConvSpec

__all__ = ["plan_record", "proposal_record", "read", "written"]

Record: TypeAlias = Mapping[str, Any]
"""An object of JSON as it is read: its values may be anything, and a wrong one makes no proposal."""

_FORMAT = "archcost plan"
_VERSION = 1


class _Plan(Protocol):
    """An `archcost.Plan`, whose module imports this one."""

    @property
    def proposals(self) -> Iterable[Proposal]: ...
    @property
    def after(self) -> Iterable[Proposal] | None: ...


def written(plan: _Plan, path: str | os.PathLike[str] | None, indent: int | None) -> str | None:
    """Write a plan to a file, or return its text."""
    text = json.dumps(plan_record(plan), indent=indent, allow_nan=False)
    if path is None:
        return text
    Path(path).write_text(text + "\n", encoding="utf-8")
    return None


def read(source: str | os.PathLike[str]) -> tuple[list[Proposal], list[Proposal]]:
    """The proposals of a plan, and of the one that is applied first: from its text, which begins with a
    brace, or its file."""
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    if is_text:
        where, text = "the plan", str(source)
    else:
        where = os.fspath(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RewriteError(f"cannot read {where}: {error}") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RewriteError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise RewriteError(f"{where} is not a plan: Plan.to_json writes one")
    if record.get("version") != _VERSION:
        raise RewriteError(
            f"{where} has version {record.get('version')!r}, and this archcost reads {_VERSION}: update "
            f"archcost"
        )
    return _proposals(record.get("proposals"), where), _proposals(record.get("after", []), where)


def _proposals(records: object, where: str) -> list[Proposal]:
    if not isinstance(records, list):
        raise RewriteError(f"{where} is not a plan: it has no list of proposals")
    found = []
    for number, one in enumerate(records, 1):
        try:
            found.append(_proposal(one))
        except (ArchcostError, AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise RewriteError(f"{where}, proposal {number} is not as to_json writes it: {said}") from error
    return found


def plan_record(plan: _Plan) -> dict[str, Json]:
    """A plan as plain values for JSON."""
    found: dict[str, Json] = {"format": _FORMAT, "version": _VERSION}
    if plan.after is not None:
        found["after"] = [proposal_record(one) for one in plan.after]
    return {**found, "proposals": [proposal_record(one) for one in plan.proposals]}


def proposal_record(one: Proposal) -> dict[str, Json]:
    """A proposal as plain values for JSON."""
    return {
        "name": one.name,
        "rule": one.rule,
        "options": one.options,
        "type": one.type_name,
        "shape": one.shape,
        "exact": one.exact,
        "note": one.replacement.note,
        "before_it": list(one.replacement.before),
        **({"keep": list(one.replacement.keep)} if one.replacement.keep else {}),
        "chains": {
            name: [_step_record(step) for step in chain] for name, chain in one.replacement.chains.items()
        },
        "old": [asdict(spec) for spec in one.old],
        "new": [asdict(spec) for spec in one.new],
        "before": asdict(one.before),
        "after": asdict(one.after),
        "weight_error": one.weight_error,
        "output_error": one.output_error,
        "race": None if one.race is None else asdict(one.race),
        "dtype": one.dtype,
        "types": list(one.types),
    }


def _step_record(step: ChainStep) -> dict[str, Json]:
    kind = {Conv: "convolution", Activation: "activation", Kept: "kept"}[type(step)]
    record = {"step": kind, **asdict(step)}
    if not record.get("linear", True):
        del record["linear"]
    return record


def _proposal(record: Record) -> Proposal:
    given = record["chains"].items()
    chains = {str(name): tuple(map(_step, steps)) for name, steps in given}
    if not chains:
        raise ValueError("it replaces nothing")
    race = record["race"]
    return Proposal(
        rule=str(record["rule"]),
        options=dict(record["options"]),
        type_name=str(record["type"]),
        shape=str(record["shape"]),
        replacement=Replacement(
            chains,
            bool(record["exact"]),
            str(record["note"]),
            tuple(record.get("before_it", ())),
            tuple(map(int, record.get("keep", ()))),
        ),
        old=tuple(_spec(spec) for spec in record["old"]),
        new=tuple(_spec(spec) for spec in record["new"]),
        before=_costs(record["before"]),
        after=_costs(record["after"]),
        weight_error=_number(record["weight_error"]),
        output_error=_number(record["output_error"]),
        race=None if race is None else Raced(**race),
        dtype=str(record["dtype"]),
        types=_tuples(record["types"]),
    )


def _step(step: Record) -> ChainStep:
    kind = step["step"]
    if kind == "activation":
        if not isinstance(getattr(nn, str(step["kind"]), None), type):
            raise ValueError(f"torch.nn has no {step['kind']!r}")
        return Activation(step["kind"])
    spec = None if step["spec"] is None else _spec(step["spec"])
    if kind == "kept":
        return Kept(step["name"], spec)
    if kind != "convolution" or spec is None:
        raise ValueError(f"no step is called {kind!r}")
    return Conv(spec, step["path"], step["channels_last"], bool(step.get("linear")))


def _spec(values: Record) -> ConvSpec:
    return ConvSpec(**{one.name: _tuples(values[one.name]) for one in fields(ConvSpec)})


def _costs(values: Record) -> PlaceCosts:
    return PlaceCosts(**{name: _tuples(value) for name, value in values.items()})


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _tuples(value: Any) -> Any:
    """A value from JSON with tuples for lists."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
