"""The notes below a table: assumptions, operations not counted, shared modules, modules never called."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from archcost.analysis.profile import macs_by_kind
from archcost.analysis.reports.columns import MODULE_COLUMNS
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.errors import ArchcostError
from archcost.report.notes import LOWER_BOUND, signs
from archcost.report.text import visible
from archcost.report.units import all_shapes_text, axes_text, bytes_text, count_text, percent_text

if TYPE_CHECKING:
    from archcost.fields.field import ReceptiveField
    from archcost.fields.fields import Fields
    from archcost.fields.findings import Finding
    from archcost.report.grid import Grid

__all__ = [
    "KIND_NAMES",
    "elsewhere",
    "findings",
    "footnotes",
    "heading",
    "never_ran",
    "seen_whole",
    "shared",
    "summary",
    "totals",
    "uncounted",
    "units",
]

# The entries of a list for people; JSON and pandas have all.
LONGEST_LIST = 12


KIND_NAMES = {
    "convolution": "convolutions",
    "matmul": "linear layers and other matrix products",
    "attention": "attention itself",
    "recurrent": "recurrent layers",
}

# The entries of a list on the first screen, and the characters of a note there.
_FEW, _SHORT = 3, 240


def totals(analysis: TracedModel) -> str:
    """The totals in a sentence, with every output of the model where there are many."""
    row = Ledger(analysis).row(analysis.total)
    text = {column.name: column.text(row) for column in MODULE_COLUMNS}
    total = analysis.total
    parts = [f"{text['params']} parameters ({text['param_bytes']})", f"{text['macs']} MACs"]
    parts.append(f"peak memory {text['peak_memory_bytes']}")
    if total.kept_for_backward_bytes is not None:
        parts.append(f"{text['kept_for_backward_bytes']} saved for backward")
    if text["receptive_field"] not in ("-", "?"):
        size = text["receptive_field"]
        parts.append(f"receptive field {f'all ({size})' if seen_whole(analysis) else size}")
    parts.append(f"{total.depth} weighted layer{'s' * (total.depth != 1)} deep")
    shapes = all_shapes_text(total.output_shape or ())
    return ", ".join(parts) + (f"; outputs {shapes}" if shapes != text["output_shape"] else "")


def findings(analysis: TracedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """The notes of the first screen: what matters of the model, and on what assumptions."""
    unknown = [*uncounted(analysis)[:_FEW], *_more(len(analysis.uncounted), _FEW)]
    notes = [("Not counted", text) for text in unknown]
    notes += [note for note in field_notes(analysis) if note[0] != "Field" or note[1].startswith("unknown")]
    notes += signs(grids) or [LOWER_BOUND] * any(item.macs_unknown for item in analysis.uncounted)
    silent = never_ran(analysis)
    notes += [("Never called", _listed(silent, _FEW))] if silent else []
    said = [visible(note) for note in analysis.notes if note]
    flops = "2 FLOPs" if analysis.total.flops == 2 * analysis.total.macs else "2 FLOPs, 8 where complex"
    assumed = [*said[:_FEW], *_more(len(said), _FEW), f"1 MAC is one multiply-accumulate, {flops}"]
    return [(what, _cut(text)) for what, text in [*notes, ("Assumed", "; ".join(assumed))]]


def seen_whole(analysis: TracedModel) -> bool:
    """Whether the output sees the whole input by operations that have most of the MACs, such as attention.

    The receptive field of the last feature map is then that of a small part of the model; it is otherwise
    where a pool is global at the end.
    """
    fields = analysis.fields_or_none
    network = None if fields is None else fields.network
    if fields is None or network is None or network.is_global:
        return False
    if fields.output is None or not fields.output.is_global:
        return False
    ends = [call.end_op for call in analysis.trace.calls if call.module == network.layer]
    after = sum(cost.macs or 0 for cost in analysis.operations[max(ends, default=len(analysis.operations)) :])
    return 2 * after > analysis.total.macs


def elsewhere(analysis: TracedModel) -> str:
    """The kinds of operations that have the MACs, where convolutions have less than half; else empty."""
    found = macs_by_kind(analysis)
    total = sum(found.values())
    convolutions = found.pop("convolution", 0)
    if 2 * convolutions >= total:
        return ""
    parts = [*found.items(), ("convolution", convolutions)]
    shares = [f"{KIND_NAMES.get(kind, kind)} {percent_text(100 * macs / total)} %" for kind, macs in parts]
    return f"{', '.join(shares)} of the MACs"


def _cut(text: str) -> str:
    return shorten(text, _SHORT, placeholder=" ...")


def units(analysis: TracedModel) -> str:
    """The note on the units of a table's numbers."""
    total = analysis.total
    flops = "twice the MACs" if total.flops == 2 * total.macs else "twice the MACs, 8 times where complex"
    return f"1 MAC is one multiply-accumulate, FLOPs are {flops}, other ops are apart; 1 MB is 10^6 bytes"


def heading(analysis: TracedModel) -> tuple[str, str]:
    """The heading: the model, its inputs, the mode if training, the device if not `meta`."""
    name, kind = visible(analysis.name), visible(analysis.total.type_name)
    model = name if name == kind else f"{name} ({kind})"
    mode = ", in training mode" * analysis.training
    where = "" if analysis.trace.device == "meta" else f", run on {visible(analysis.trace.device)}"
    return model, f"input {visible(analysis.input_text)}{mode}{where}"


def summary(analysis: TracedModel) -> str:
    """The note on totals that have no column in the table."""
    total = analysis.total
    parts = [f"weights {bytes_text(total.param_bytes)}"]
    if total.buffer_bytes:
        parts.append(f"buffers {bytes_text(total.buffer_bytes)}")
    if total.trainable_params != total.params:
        parts.append(f"{count_text(total.trainable_params)} trainable params")
    if total.kept_for_backward_bytes is not None:
        parts.append(f"{bytes_text(total.kept_for_backward_bytes)} saved for backward")
    bends = f"{total.nonlinearities} non-linearit{'y' if total.nonlinearities == 1 else 'ies'}"
    parts.append(f"{total.depth} weighted layer{'s' * (total.depth != 1)} and {bends} deep")
    return ", ".join(parts)


def footnotes(analysis: TracedModel, grids: Sequence[Grid]) -> list[tuple[str, str]]:
    """The other notes, as pairs of subject and text; signs are explained where the tables have them."""
    notes = [("Note", visible(note)) for note in analysis.notes if note]
    notes += [("Not counted", text) for text in uncounted(analysis)]
    notes += field_notes(analysis)
    notes += signs(grids)
    notes += [("Tied", text) for text in _tied(analysis)]
    notes += [("Shared", text) for text in shared(analysis)]
    silent = never_ran(analysis)
    if silent:
        notes.append(("Never called", f"{_listed(silent)} (their parents may still use the weights)"))
    return notes


def field_notes(analysis: TracedModel) -> list[tuple[str, str]]:
    """The notes on the receptive field of the network, and the findings about those of its layers."""
    try:
        fields = analysis.fields
    except ArchcostError as error:
        return [("Field", f"unknown: {visible(str(error))}")]
    lines = [("Field", text) for text in _network(fields)]
    for kind, one, several in _FINDINGS:
        found = [finding for finding in fields.findings if finding.kind == kind]
        if len(found) == 1:
            lines.append((one, visible(found[0].text)))
        elif found:
            lines.append((one, visible(several(found))))
    return lines


def _network(fields: Fields) -> list[str]:
    network, output = fields.network, fields.output
    texts = []
    if network is not None and any(network.local.size):
        local = network.local
        text = f"size {_sizes(local)}, stride {axes_text(local.stride)}, padding {axes_text(local.padding)}"
        where = f"at {visible(network.layer)}, the last feature map" if network.layer else "at the output"
        aside = ", global operations taken as constants" if network.is_global else ""
        of = f" of {visible(network.input_name)}" if network.input_name else ""
        texts.append(f"{text}{of} {where}{aside}")
    if output is not None and output.is_global:
        of = f"all of {visible(output.input_name)}" if output.input_name else "the whole input"
        texts.append(f"the output sees {of}, because of {visible(output.reason or '')}")
    return texts


def _sizes(field: ReceptiveField) -> str:
    return field.size_text().replace("-", " to ") + (" by phase" if field.differs_by_phase else "")


def _first_of(found: Sequence[Finding], what: str) -> str:
    """The number of findings, and the module of the first."""
    return f"{len(found)} {what}, the first {found[0].module or 'the model'}"


_FINDINGS: tuple[tuple[str, str, Callable[[Sequence[Finding]], str]], ...] = (
    (
        "unproductive",
        "No context",
        lambda f: _first_of(f, "layers have inputs that already see the whole image at every position"),
    ),
    ("misaligned", "Misaligned", lambda f: f"{f[0].text}; and {len(f) - 1} more merges like it"),
    ("uncovered", "Uncovered", lambda f: f"{f[0].text}; and {len(f) - 1} more layers"),
    ("unknown", "Field unknown", lambda f: f"{f[0].text}; and {len(f) - 1} more"),
)


def uncounted(analysis: TracedModel) -> list[str]:
    """A line for each operation that was not counted: operator, module, times, reason."""
    lines = []
    for item in analysis.uncounted[:LONGEST_LIST]:
        where = visible(item.module) or "the model itself"
        times = f", {item.times} times" if item.times > 1 else ""
        lines.append(f"{visible(item.op)} in {where}{times}: {visible(item.reason)}")
    return lines + _more(len(analysis.uncounted))


def _tied(analysis: TracedModel) -> list[str]:
    found = [visible(text) for row in analysis.modules for text in row.tied]
    return [f"{text} (counted once)" for text in found[:LONGEST_LIST]] + _more(len(found))


def shared(analysis: TracedModel) -> list[str]:
    """A line for each module registered under several names, without the modules inside it."""
    found = []
    for info in analysis.trace.modules.values():
        outer, _, key = info.name.rpartition(".")
        held = analysis.trace.modules.get(outer)
        inherited = {f"{alias}.{key}" for alias in held.aliases} if held else set()
        names = [info.name, *(alias for alias in info.aliases if alias not in inherited)]
        if len(names) > 1:
            found.append(f"{' = '.join(map(visible, names))} (weights counted once)")
    return found[:LONGEST_LIST] + _more(len(found))


def never_ran(analysis: TracedModel) -> list[str]:
    """The names of the outermost registered modules in which nothing was called."""
    ran = set()
    for row in analysis.modules:
        name = row.name if row.calls else None
        first = row.shared_with
        while name and name not in ran:
            ran.add(name)
            name = name.rpartition(".")[0]
        if row.calls and first is not None:
            ran.add(first)
    silent: list[str] = []
    quiet: set[str] = set()
    for row in analysis.modules[1:]:
        if row.name in ran:
            continue
        if row.name.rpartition(".")[0] not in quiet:
            silent.append(row.name)
        quiet.add(row.name)
    return silent


def _listed(names: list[str], most: int = LONGEST_LIST) -> str:
    """The names as text; names that differ only in their numbers are joined."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"\d+", "#", name), []).append(visible(name))
    texts = [found[0] + (f" and {len(found) - 1} like it" if found[1:] else "") for found in alike.values()]
    return ", ".join([*texts[:most], *_more(len(texts), most)])


def _more(count: int, most: int = LONGEST_LIST) -> list[str]:
    return [f"and {count - most} more"] if count > most else []
