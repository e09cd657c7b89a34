"""`crosscheck`, which compares the counts of a model with fvcore and FlopCounterMode, module by module.

fvcore and FlopCounterMode are the witnesses; both run the real model. The reason for a difference comes
from the witness's own report (operators that it skipped, operators that it counts and archcost does not call
MACs), never from the name of a model.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from archcost.cost.registry import COMPLEX_FLOPS
from archcost.errors import ModelError
from archcost.report.columns import words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import count_text

if TYPE_CHECKING:
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.trace.call import Call
    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["CrossCheck", "Disagreement", "crosscheck"]

WITNESSES = ("fvcore", "FlopCounterMode")

# Operators of fvcore whose count is in MACs by archcost's convention; the others that it counts are not.
_FVCORE_MACS = {"conv", "linear", "addmm", "matmul", "bmm", "einsum", "baddbmm", "mv"}
_ATTENTION = ("scaled_dot_product", "native_multi_head_attention", "transformer_encoder_layer")


@dataclass(frozen=True)
class Disagreement:
    """A module for which a witness counts other MACs than archcost; those of children are not included."""

    witness: str
    module: str
    """The name in ``named_modules()``."""
    type_name: str
    """The class of the module."""
    archcost_macs: int
    witness_macs: float
    reason: str | None
    """The reason for the difference; None where it is not known, and a count may be wrong."""


@dataclass(frozen=True)
class CrossCheck(Result):
    """The MACs of archcost and of each witness, and every difference with its reason."""

    name: str
    """The name of the model."""
    archcost_macs: int
    witness_macs: dict[str, float]
    """The total of each witness, by its name."""
    failures: dict[str, str]
    """The error of each witness that could not count the model, by its name."""
    differences: tuple[Disagreement, ...]
    modules_checked: int

    @property
    def unexplained(self) -> tuple[Disagreement, ...]:
        """The differences without a known reason."""
        return tuple(d for d in self.differences if d.reason is None)

    @property
    def agrees(self) -> bool:
        """Whether every difference has a known reason and at least one witness could count the model."""
        return not self.unexplained and any(name in self.witness_macs for name in WITNESSES)

    def document(self, asked: Asked) -> Document:
        """The contents to show: as data a row for each difference, as JSON the attributes by their names."""
        asked.without_depth("a crosscheck")
        table = Table(
            "differences", _COLUMNS, lambda: ordered(self.differences, _COLUMNS, asked, "archcost_macs")
        )
        said = f"{self.archcost_macs:,} MACs, {self.modules_checked} modules with operations"
        heading = (f"{self.name}: {said}", "")
        return Document(
            "archcost.crosscheck/1",
            [heading],
            [table],
            [table] if asked.columns else [],
            lambda: asdict(self),
            self._lines(),
        )

    def _lines(self) -> list[str]:
        lines = []
        for witness, macs in self.witness_macs.items():
            same = "the same total" if macs == self.archcost_macs else f"{macs - self.archcost_macs:+,.0f}"
            lines.append(f"  {witness}: {macs:,.0f} MACs ({same})")
        lines += [f"  {witness}: could not count it: {why}" for witness, why in self.failures.items()]
        grouped: dict[tuple[str, str], list[Disagreement]] = {}
        for found in self.differences:
            grouped.setdefault((found.witness, found.reason or "UNEXPLAINED"), []).append(found)
        for (witness, reason), several in grouped.items():
            off = sum(d.witness_macs - d.archcost_macs for d in several)
            where = ", ".join(visible(d.module) or "(model)" for d in several[:3])
            more = f" and {len(several) - 3} more" if len(several) > 3 else ""
            lines.append(f"  {witness} {off:+,.0f} in {where}{more}: {reason}")
        if not self.differences and self.witness_macs:
            lines.append("  no module differs")
        return lines


_COLUMNS: tuple[Column[Disagreement], ...] = (
    words(
        "witness", "Witness", "The counter that disagrees: fvcore, FlopCounterMode, or archcost run for real"
    ),
    words("module", "Module", "The module whose own operations differ, children apart"),
    words("type", "Type", "The class of the module", attrgetter("type_name")),
    words("archcost_macs", "MACs", "MACs counted by archcost", unit="MACs", dtype="int64", show=count_text),
    words(
        "witness_macs",
        "Witness MACs",
        "MACs counted by the witness",
        unit="MACs",
        dtype="float64",
        show="{:,.0f}".format,
    ),
    words("reason", "Reason", "The reason for the difference; empty where it is unexplained", missing=""),
)


def crosscheck(
    model: nn.Module | str,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    weights: str | None = None,
) -> CrossCheck:
    """Compare archcost's MACs of a model with those of fvcore and FlopCounterMode, module by module.

    Both run the model several times; it comes back untouched.

    Args:
        model: a module or a SPEC.
        inputs: as in `archcost.analyze`.
        input_size: as in `archcost.analyze`.
        dtype: as in `archcost.analyze`.
        weights: with a SPEC, the file of a state dict.

    Returns:
        The totals, the differences with their reasons, and in ``failures`` the counters that failed.

    Raises:
        InputError: the inputs do not fit.
        ModelError: the model cannot be traced, or is on `meta` and cannot be run.
        SpecError: the SPEC names nothing that can be loaded.
    """
    from archcost.analysis.analysis import analyze
    from archcost.models.specs import load
    from archcost.progress import Progress
    from archcost.trace.call import Call, like_traced
    from archcost.trace.failure import first_sentences
    from archcost.trace.inputs import floating
    from archcost.trace.modules import check_model, walk
    from archcost.trace.state import Untouched

    name = None
    if isinstance(model, str):
        loaded = load(model, weights=weights, dtype=floating(dtype) if inputs is None else None)
        model, name = loaded.model, loaded.spec
        if inputs is None and input_size is None:
            input_size = loaded.input_size
    check_model(model)
    tensors = (*model.parameters(), *model.buffers())
    if any(t.is_meta for t in tensors):
        raise ModelError("crosscheck runs the model, but it is on `meta`; load it with its weights")
    device = str(tensors[0].device) if tensors else "cpu"
    totals: dict[str, float] = {}
    failures: dict[str, str] = {}
    differences: list[Disagreement] = []
    steps = tuple(zip(WITNESSES, (_fvcore, _flop_counter), strict=True))
    with Progress(2 + len(steps), "crosscheck: archcost") as bar:
        analysis = analyze(model, inputs, input_size=input_size, dtype=dtype, progress=False)
        bar.step(label="crosscheck: archcost, run for real")
        given = like_traced(analysis.trace) if inputs is None else Call.of(inputs)
        call = given.mapped(lambda tensor: tensor.to(device))
        # The witnesses run for real, where a layer may be another operator than on `meta`.
        real = analyze(model, call, device=device, progress=False)
        own, on_meta = _own_macs(real), _own_macs(analysis)
        totals["archcost, run for real"] = real.total.macs
        differences += _self_differences(on_meta, own, analysis)
        for witness, run in steps:
            bar.step(label=f"crosscheck: {witness}")
            try:
                with Untouched(walk(model)) as guard, _silent():
                    for tensor in (*tensors, *call.tensors):
                        guard.keep(tensor.untyped_storage())
                    counts = run(model, call)
            except Exception as error:
                failures[witness] = (
                    f"{type(error).__name__}: {first_sentences(' '.join(str(error).split()), 200)}"
                )
                continue
            totals[witness] = sum(sum(by_op.values()) for by_op in counts.macs.values())
            differences += _differences(witness, own, counts, analysis)
    return CrossCheck(
        name or analysis.name, analysis.total.macs, totals, failures, tuple(differences), len(own)
    )


def _self_differences(
    on_meta: dict[str, Counter[str]], real: dict[str, Counter[str]], analysis: Analysis
) -> Iterator[Disagreement]:
    for module in dict.fromkeys((*on_meta, *real)):
        paper, run = sum(on_meta.get(module, Counter()).values()), sum(real.get(module, Counter()).values())
        if paper != run:
            info = analysis.trace.modules.get(module)
            yield Disagreement(
                "archcost, run for real", module, info.type_name if info else "", paper, run, None
            )


@dataclass
class _WitnessCounts:
    """The counts of a witness: by module, the MACs of its own operators, and the operators skipped."""

    macs: dict[str, Counter[str]]
    skipped: dict[str, Counter[str]]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress the witnesses' warnings: the result has their contents."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _own_macs(analysis: Analysis) -> dict[str, Counter[str]]:
    from archcost.trace.dataflow import first_names

    own: dict[str, Counter[str]] = {}
    first = first_names(analysis.trace)
    for cost in analysis.operations:
        module = _registered(first.get(cost.module, cost.module))
        own.setdefault(module, Counter())[cost.op.base] += cost.macs or 0
    return own


def _registered(name: str) -> str:
    """The name of the nearest registered module; witnesses know no others."""
    while "<" in name:
        name = name.rpartition(".")[0]
    return name


def _fvcore(model: nn.Module, call: Call) -> _WitnessCounts:
    from fvcore.nn import FlopCountAnalysis

    if call.kwargs:
        raise ModelError("fvcore takes positional inputs only")
    counter = FlopCountAnalysis(model, call.args)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    cumulative = counter.by_module_and_operator()
    skipped = {name: counter.unsupported_ops(name) for name in cumulative}
    return _WitnessCounts(_less_children(cumulative), _less_children(skipped))


def _less_children(cumulative: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """The own counts of modules from cumulative counts, less those of the nearest counted descendants."""
    own = {name: Counter(counts) for name, counts in cumulative.items()}
    for name, counts in cumulative.items():
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in own:
                own[parent].subtract(counts)
                break
    return own


def _flop_counter(model: nn.Module, call: Call) -> _WitnessCounts:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        model(*call.args, **call.kwargs)
    root = type(model).__name__
    cumulative: dict[str, Counter[str]] = {}
    for name, by_op in counter.flop_counts.items():
        if name == "Global":
            continue
        short = name.removeprefix(root).removeprefix(".")
        cumulative[short] = Counter({str(op): flops / 2 for op, flops in by_op.items()})
    return _WitnessCounts(_less_children(cumulative), {})


def _differences(
    witness: str, own: dict[str, Counter[str]], counted: _WitnessCounts, analysis: Analysis
) -> Iterator[Disagreement]:
    complex_: Counter[str] = Counter()
    for op in analysis.operations:
        if op.kind == "convolution" and op.macs and op.flops == COMPLEX_FLOPS * op.macs:
            complex_[op.module] += op.macs
    # A witness may count shared modules and functional calls for a parent: compare where either has a count.
    for module in dict.fromkeys((*own, *counted.macs)):
        mine = own.get(module, Counter())
        theirs = counted.macs.get(module, Counter())
        total, witnessed = sum(mine.values()), sum(theirs.values())
        if total == witnessed:
            continue
        info = analysis.trace.modules.get(module)
        reason = (_fvcore_reason if witness == "fvcore" else _flop_counter_reason)(
            mine, theirs, counted.skipped.get(module, Counter())
        )
        if witnessed - total == 2 * complex_[module]:
            reason = (
                "it counts the three real convolutions by which a complex one runs; archcost the complex one"
            )
        yield Disagreement(witness, module, info.type_name if info else "", total, witnessed, reason)


def _fvcore_reason(mine: Counter[str], theirs: Counter[str], skipped: Counter[str]) -> str | None:
    """The reason, if the counts agree without the operators that only fvcore counts and those it skips."""
    reasons = []
    extra = {op: n for op, n in theirs.items() if op not in _FVCORE_MACS and n}
    if extra:
        reasons.append(f"fvcore counts {', '.join(sorted(extra))} as flops, archcost as other_ops")
    rest = sum(theirs.values()) - sum(extra.values())
    total = sum(mine.values())
    attention = sum(n for op, n in mine.items() if any(a in op for a in _ATTENTION))
    if total > rest and any(n > 0 for n in skipped.values()):
        names = sorted(op.removeprefix("aten::") for op, n in skipped.items() if n > 0)
        if any("native_multi_head" in n or "transformer_encoder" in n for n in names):
            reasons.append("fvcore has no rule for fused transformer layers and counts 0")
            total = rest
        elif attention and any("attention" in n for n in names):
            reasons.append("fvcore has no rule for fused attention and counts 0")
            total -= attention
        else:
            for skipped_name, own_name, why in _SKIPPED:
                if any(skipped_name in n for n in names):
                    total -= sum(n for op, n in mine.items() if own_name in op)
                    reasons.append(why)
                    if total == rest:
                        break
    if total != rest and abs(total - rest) <= _EINSUM_ERROR * theirs.get("einsum", 0):
        reasons.append("fvcore rounds the count of an einsum to four digits")
        total = rest
    return "; ".join(reasons) if reasons and total == rest else None


# The largest relative error of rounding to four digits.
_EINSUM_ERROR = 5e-4

# Operators that fvcore skips: part of its name, part of the name of archcost's operator, and the reason.
_SKIPPED = (
    ("_convolution_mode", "convolution", 'fvcore has no rule for string padding ("same") and counts 0'),
    ("lstm", "", "fvcore has no rule for lstm and counts 0"),
    ("gru", "", "fvcore has no rule for gru and counts 0"),
    ("rnn", "", "fvcore has no rule for rnn and counts 0"),
    ("bilinear", "_trilinear", "fvcore has no rule for bilinear layers and counts 0"),
    ("deform_conv2d", "deform_conv2d", "fvcore has no rule for deformable convolutions and counts 0"),
    ("quantized", "quantized", "fvcore has no rule for int8 operators and counts 0"),
    ("dot", ".dot", "fvcore has no rule for dot products and counts 0"),
    ("mv", "mv", "fvcore has no rule for matrix x vector and counts 0"),
    ("bmm", "bmm", "fvcore has no rule for this batched product and counts 0"),
)


def _flop_counter_reason(mine: Counter[str], theirs: Counter[str], _: Counter[str]) -> str | None:
    missing = {op: n for op, n in mine.items() if n and not _has_formula(op)}
    if missing and sum(mine.values()) - sum(missing.values()) == sum(theirs.values()):
        return f"FlopCounterMode has no formula for {', '.join(sorted(missing))} here and counts 0"
    return None


def _has_formula(base: str) -> bool:
    import torch
    from torch.utils.flop_counter import flop_registry

    namespace, _, name = base.partition(".")
    packet = getattr(getattr(torch.ops, namespace, None), name, None)
    return packet in flop_registry
