"""The modules that explain the difference of two models: the smallest set that adds up to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from archcost.analysis.matching import Matching, Node, alike, matching
from archcost.analysis.reports.columns import Row
from archcost.analysis.reports.pairs import RowPair
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost, OpCost
from archcost.report.units import axes_text, count_text, shape_text
from archcost.trace.graph import refs
from archcost.trace.sites import Site

__all__ = ["ADDED_UP", "Change", "Changes", "changes_of"]

ADDED_UP = ("params", "macs", "other_ops", "activation_bytes", "kept_for_backward_bytes")
"""The measures by which modules are compared: the costs of all changes add up to the difference in total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(RowPair):
    """A module, or what a module runs itself, that changed; a missing side costs nothing.

    ``kind`` is ``added``, ``removed``, ``replaced`` (another type), ``changed`` (other arguments, parameters
    or operations), ``moved``, ``renamed``, or ``resized``: built as before, and given other shapes.
    """

    kind: str
    why: str
    """The change in words."""
    name_a: str | None
    """The name in a; None where it was added."""
    name_b: str | None
    """The name in b; None where it was removed."""
    modules: int
    """The number of modules together."""
    before: ModuleCost
    """The totals of the model in a."""
    own: bool = False
    """Whether the row is of the operations and parameters of a module with children, without those."""

    @property
    def built_at(self) -> Site | None:
        """The code that built the module, in b unless it was removed; None where not recorded."""
        row = self.a if self.b is None else self.b
        info = None if row is None else row.analysis.trace.modules.get(row.module.name)
        return None if info is None else info.built_at

    @property
    def type_name(self) -> str:
        return self.type_of("a" if self.b is None else "b") or ""


@dataclass(frozen=True)
class Changes:
    """The changes, and the numbers of modules without one."""

    rows: tuple[Change, ...]
    """In order of definition in b, those removed from a last."""
    unchanged: int
    """The number of modules that are as they were."""
    renumbered: int
    """The number of modules that only have another place in a list."""
    same_unknown: bool
    """Whether the same operations are not counted in both."""


def changes_of(a: TracedModel, b: TracedModel) -> Changes:
    """The changes from a to b."""
    return _Finder(a, b).find()


class _Finder:
    def __init__(self, a: TracedModel, b: TracedModel) -> None:
        self.found: Matching = matching(a, b)
        self.ledgers = Ledger(a), Ledger(b)
        self.ops = _by_module(a), _by_module(b)
        self.before = a.total
        self.covered: set[Node] = set()

    def find(self) -> Changes:
        rows: list[Change] = []
        unchanged = renumbered = 0
        for node in self.found.b:
            old = self.found.to_a.get(node)
            if node in self.covered:
                continue
            change = self._alone(node) if old is None else self._both(old, node)
            if change is not None:
                rows.append(change)
            elif old is not None:
                unchanged += 1
                renumbered += old.key != node.key
        for node in self.found.a:
            if node not in self.covered and node not in self.found.to_b:
                change = self._alone(node)
                rows += [change] if change is not None else []
        whole = [self._unknown(self.found.a), self._unknown(self.found.b)]
        return Changes(tuple(rows), unchanged, renumbered, whole[0] == whole[1])

    def _alone(self, node: Node) -> Change | None:
        """The change of a module that one model alone has, with all below it that the other lacks too."""
        inside = list(node.subtree())
        whole = not any(self._is_matched(below) for below in inside)
        if whole:
            self.covered.update(inside)
        row = self._row(node, own=not whole)
        if not whole and not any(getattr(row.cost, name) for name in ADDED_UP):
            return None  # it only holds what was there before
        old = node.side == 0
        return Change(
            node.name, row if old else None, None if old else row, kind="removed" if old else "added",
            why="", name_a=node.name if old else None, name_b=None if old else node.name,
            modules=len(inside) if whole else 1, before=self.before, own=not whole,
        )  # fmt: skip

    def _both(self, a: Node, b: Node) -> Change | None:
        """The change of a matched module: its own, without its children."""
        whole = not alike(a, b) and self._replaced(a, b)
        if whole:
            self.covered.update((*a.subtree(), *b.subtree()))
        rows = self._row(a, own=not whole), self._row(b, own=not whole)
        differ = any(getattr(rows[0].cost, name) != getattr(rows[1].cost, name) for name in ADDED_UP)
        edits = [f"{a.cost.type_name} -> {b.cost.type_name}"] if a.cost.type_name != b.cost.type_name else []
        kind = "replaced" if edits and (whole or differ or b.cost.is_leaf) else None
        if kind is None:
            edits = self._edits(a, b, rows)
            kind = "changed" if edits else None
        place = self.found.place(a, b)
        if place is not None:
            edits.append(f"was {a.name or 'the model'}")
        kind = kind or place
        if kind is None:
            if not differ:
                return None
            kind, edits = "resized", [_shapes(a, b)]
        unknown = [self._unknown(node.subtree() if whole else [node]) for node in (a, b)]
        modules = b.size if whole or kind == place else 1
        return Change(
            b.name, *rows, same_unknown=unknown[0] == unknown[1], kind=kind, why=", ".join(edits),
            name_a=a.name, name_b=b.name, modules=modules, before=self.before,
            own=bool(b.children) and not whole and kind != place,
        )  # fmt: skip

    def _replaced(self, a: Node, b: Node) -> bool:
        """Whether nothing inside either of two modules has a match elsewhere."""
        return not any(self._is_matched(n) for n in (*a.subtree(), *b.subtree()) if n is not a and n is not b)

    def _is_matched(self, node: Node) -> bool:
        return node in (self.found.to_a if node.side else self.found.to_b)

    def _row(self, node: Node, own: bool) -> Row:
        ledger = self.ledgers[node.side]
        return ledger.own(node.cost) if own and node.children else ledger.row(node.cost)

    def _edits(self, a: Node, b: Node, rows: tuple[Row, Row]) -> list[str]:
        """The changes that were made to a module itself, in words."""
        edits = _arguments(a.cost.details, b.cost.details)
        if not edits and rows[0].module.params != rows[1].module.params:
            edits = [f"params {count_text(rows[0].module.params)} -> {count_text(rows[1].module.params)}"]
        if a.cost.calls != b.cost.calls:
            edits.append(f"called {a.cost.calls} -> {b.cost.calls} times")
        if not edits or b.children:
            before, after = (
                Counter(filter(None, map(_kind, ops.get(node.name, ()))))
                for ops, node in zip(self.ops, (a, b), strict=True)
            )
            for sign, more in (("+", after - before), ("-", before - after)):
                edits += [f"{sign}{n}x {kind}" if n > 1 else f"{sign}{kind}" for kind, n in more.items()]
        return edits

    def _unknown(self, nodes: Iterable[Node]) -> Counter[tuple[object, ...]]:
        """The operations that could not be counted, with the shapes that they got."""
        found: Counter[tuple[object, ...]] = Counter()
        for node in nodes:
            for cost in self.ops[node.side].get(node.name, ()):
                if cost.reason is not None:
                    found[cost.op.name, tuple(ref.shape for ref in refs(cost.op.args)), cost.reason] += 1
        return found


def _by_module(model: TracedModel) -> dict[str, list[OpCost]]:
    found: dict[str, list[OpCost]] = {}
    for cost in model.operations:
        found.setdefault(cost.module, []).append(cost)
    return found


def _kind(cost: OpCost) -> str | None:
    """The signature of an operation, whatever the shape of its input; None where it costs nothing."""
    op = cost.op
    if not (cost.macs or cost.other_ops or cost.reason):
        return None
    if op.base == "aten.convolution":
        _, weight, _, stride, padding, dilation = op.args[:6]
        more = [("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)]
        said = [f"{name} {axes_text(value)}" for name, value, usual in more if {*value} != {usual}]
        return " ".join((op.label, shape_text(weight.shape), *said))
    return op.label


_COMMA = re.compile(r",\s*(?![^()\[\]]*[)\]])")


def _arguments(a: str, b: str) -> list[str]:
    """The arguments in which the details of two modules differ: ``kernel_size (3, 3) -> (5, 5)``."""
    before, after = _named(a), _named(b)
    edits = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, "unset"), after.get(name, "unset")
        if old != new:
            edits.append(f"{name} {old} -> {new}".lstrip())
    return edits


def _named(details: str) -> dict[str, str]:
    """The arguments by name, those without a name together under the empty one."""
    found: dict[str, str] = {}
    for text in filter(None, _COMMA.split(details)):
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        else:
            found[""] = f"{found['']}, {text}" if "" in found else text
    return found


def _shapes(a: Node, b: Node) -> str:
    before, after = a.cost.output_shape, b.cost.output_shape
    if before == after or before is None or after is None:
        return "other shapes"
    return f"output {shape_text(before)} -> {shape_text(after)}"
