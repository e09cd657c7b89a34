"""The modules as an indented tree with repeated blocks folded; the numbers add up at every level."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace

from archcost.analysis.reports.columns import Row
from archcost.analysis.reports.rows import Ledger
from archcost.cost.costs import ModuleCost
from archcost.report.document import Column
from archcost.report.text import visible

__all__ = ["TreeLine", "marks_of", "span", "tree"]

# Attributes in which equal blocks may differ: their names and the arguments that they print.
_NAMES = ("name", "details", "level", "shared_with", "tied")
_COMPARED = tuple(f.name for f in fields(ModuleCost) if f.name not in _NAMES)


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A line of the tree."""

    row: Row
    label: str
    remark: str = ""
    """Text after the label, shown dim."""
    extra: str = ""
    """Text after the remark, left out where there is no room."""
    guides: str = ""
    """The box-drawing characters in front of the label."""
    nested: bool = False
    """Whether the line is below another, not at the top."""


def tree(ledger: Ledger, depth: int | None, columns: Sequence[Column[Row]]) -> list[TreeLine]:
    """The lines below the model itself, down to ``depth``; ``columns`` are those that will be shown."""
    if depth == 0:
        return []
    root = ledger.analysis.modules[0]
    builder = _Builder(ledger, depth, [c for c in columns if c.additive])
    if not builder.ledger.children[""]:
        return [TreeLine(builder.ledger.row(root), visible(root.type_name))]
    lines: list[TreeLine] = []
    # An explicit stack, for a model may be nested deeper than Python recurses.
    stack = [(line, "", False) for line in reversed(builder.inside(root))]
    while stack:
        line, prefix, ends = stack.pop()
        branch, below = ("", "") if not line.nested else ("└─ ", "   ") if ends else ("├─ ", "│  ")
        lines.append(replace(line, guides=prefix + branch))
        if line.row.kind == "module" and (depth is None or line.row.module.level < depth):
            inside = builder.inside(line.row.module)
            children = [(child, prefix + below, child is inside[-1]) for child in inside]
            stack.extend(reversed(children))
    return lines


def marks_of(ledger: Ledger) -> dict[str, int]:
    """By module name, a number that equal modules share: their costs and their children are the same."""
    return _Builder(ledger, None, ()).marks


class _Builder:
    """The lines below a module: its children with repeats folded, and its own operations."""

    def __init__(self, ledger: Ledger, depth: int | None, added: Sequence[Column[Row]]) -> None:
        self.ledger = ledger
        self.added = added
        self.marks: dict[str, int] = {}
        self.lines: dict[str, int] = {}
        known: dict[tuple[Hashable, ...], int] = {}
        # Children before their parents: subtrees are equal if their own costs and their children are.
        for cost in reversed(ledger.analysis.modules):
            children = ledger.children[cost.name]
            key = (
                *(getattr(cost, name) for name in _COMPARED),
                cost.shared_with is None,
                len(cost.tied),
                cost.name in ledger.ops_open,
                cost.name in ledger.macs_open,
                *(self.marks[child.name] for child in children),
            )
            self.marks[cost.name] = known.setdefault(key, len(known))
            drawn = depth is None or cost.level < depth
            self.lines[cost.name] = 1 + (sum(self.lines[c.name] for c in children) if drawn else 0)

    def inside(self, parent: ModuleCost) -> list[TreeLine]:
        """The lines one level below a module, which add up to it."""
        children = self.ledger.children[parent.name]
        lines: list[TreeLine] = []
        start = 0
        while start < len(children):
            first = children[start]
            end = start + 1
            while end < len(children) and self.marks[children[end].name] == self.marks[first.name]:
                end += 1
            lines.append(self._module(first, parent))
            rest = children[start + 1 : end]
            # Folding a single line would only hide a name.
            if len(rest) * self.lines[first.name] > 1:
                lines.append(self._folded(first, rest, parent))
            else:
                lines.extend(self._module(child, parent) for child in rest)
            start = end
        return lines + self._own(parent) if lines else lines

    def _module(self, cost: ModuleCost, parent: ModuleCost) -> TreeLine:
        label = visible(cost.name.rpartition(".")[2])
        return TreeLine(
            self.ledger.row(cost), label, f" ({visible(cost.type_name)})", nested=bool(parent.name)
        )

    def _folded(self, first: ModuleCost, rest: Sequence[ModuleCost], parent: ModuleCost) -> TreeLine:
        row = self.ledger.sum([self.ledger.row(cost) for cost in rest], alike=True)
        label = span([visible(cost.name.rpartition(".")[2]) for cost in rest])
        # The last part of a long name is enough, since they are siblings.
        like = visible(first.name if len(first.name) < 20 else first.name.rpartition(".")[2])
        return TreeLine(row, label, f"  {len(rest)} more", f" like {like}", nested=bool(parent.name))

    def _own(self, parent: ModuleCost) -> list[TreeLine]:
        row = self.ledger.own(parent)
        open_too = any(column.lower_bound(row) for column in self.added)
        if not open_too and not any(column.get(row) for column in self.added):
            return []
        cost = row.module
        state = cost.params or cost.buffers
        work = cost.macs or cost.other_ops or cost.output_bytes or cost.activation_bytes or open_too
        what = "operations and parameters" if state and work else "parameters" if state else "operations"
        return [TreeLine(row, "", f"(own {what})", nested=bool(parent.name))]


_NUMBERED = re.compile(r"(.*?)(\d+)")


def span(names: Sequence[str]) -> str:
    """Several names as a range: ``2-5``, ``block_2-5``, ``a, b``, ``a ... d``."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    if len(names) > 1 and all(found):
        parts = [(m[1], int(m[2])) for m in found if m]
        start = parts[0][1]
        in_turn = [number for _, number in parts] == list(range(start, start + len(parts)))
        if in_turn and len({prefix for prefix, _ in parts}) == 1:
            return f"{names[0]}-{parts[-1][1]}"
    return ", ".join(names) if len(names) < 3 else f"{names[0]} ... {names[-1]}"
