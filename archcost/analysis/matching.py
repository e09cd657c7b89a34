"""The modules of two models matched: by name first, then by structure, so that moves and renames are found.

As in GumTree (Falleri et al. 2014), from the top down: children of matched modules by name, those of a
Sequential by the best alignment of the two lists; then equal subtrees wherever they are, the largest first;
then modules that contain much the same; last, what stands in the same place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from archcost.analysis.reports.rows import Ledger
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import ModuleCost

__all__ = ["Matching", "Node", "alike", "matching"]

# What two modules have in common, as a share of what is in them, from which on they are the same module.
_SAME = 0.5
_OWN = ("params", "buffers", "macs", "other_ops", "activation_bytes", "kept_for_backward_bytes", "calls")


@dataclass(eq=False)
class Node:
    """A module of one of the two models, with two signatures of its whole subtree."""

    cost: ModuleCost
    side: int
    """0 in a, 1 in b."""
    parent: Node | None = field(repr=False)
    children: list[Node] = field(default_factory=list, repr=False)
    exact: int = -1
    """Equal where type, arguments, costs and shapes are, in the whole subtree; names may differ."""
    built: int = -1
    """Equal where type, arguments and parameters are: the same layers, maybe on other shapes."""
    size: int = 1
    """The number of modules in the subtree."""
    contents: Counter[int] = field(default_factory=Counter, repr=False)
    """How often each kind of module with parameters is below this one, by ``built``."""

    @property
    def name(self) -> str:
        return self.cost.name

    @property
    def key(self) -> str:
        return self.cost.name.rpartition(".")[2]

    @property
    def in_list(self) -> bool:
        """Whether its key is a number, as in a Sequential: a place, which is no name."""
        return self.key.isdigit()

    def subtree(self) -> Iterator[Node]:
        """The module and all below it, parents first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


@dataclass(frozen=True)
class Matching:
    """The matched modules of two models; those in neither ``to_b`` nor ``to_a`` are of one alone."""

    a: Sequence[Node]
    b: Sequence[Node]
    """All modules, parents first."""
    to_b: dict[Node, Node] = field(default_factory=dict)
    to_a: dict[Node, Node] = field(default_factory=dict)

    def place(self, a: Node, b: Node) -> str | None:
        """``moved`` to another parent, ``renamed``, or None; another number in a list is neither."""
        if a.parent is None or b.parent is None:
            return None if a.parent is b.parent else "moved"
        if self.to_b.get(a.parent) is not b.parent:
            return "moved"
        return None if a.key == b.key or (a.in_list and b.in_list) else "renamed"


def matching(a: TracedModel, b: TracedModel) -> Matching:
    """Match the modules of two models; the same for the same models, whatever their order in memory."""
    known: dict[Hashable, int] = {}
    found = Matching(_nodes(a, 0, known), _nodes(b, 1, known))
    matcher = _Matcher(found)
    matcher.pair(*_roots(found))
    while matcher.subtrees() or matcher.containers() or matcher.leftovers():
        pass
    return found


def _nodes(model: TracedModel, side: int, known: dict[Hashable, int]) -> list[Node]:
    ledger = Ledger(model)
    nodes: dict[str, Node] = {}
    for cost in model.modules:
        parent = nodes[cost.name.rpartition(".")[0]] if cost.name else None
        nodes[cost.name] = Node(cost, side, parent)
        if parent is not None:
            parent.children.append(nodes[cost.name])
    for node in reversed(nodes.values()):  # children before their parents
        own = ledger.own(node.cost).module
        built = (node.cost.type_name, node.cost.details, own.params, own.buffers)
        numbers = tuple(getattr(own, name) for name in _OWN)
        exact = (*built, *numbers, node.cost.output_shape)
        for name, mine in (("built", built), ("exact", exact)):
            signature = (name, mine, tuple(getattr(child, name) for child in node.children))
            setattr(node, name, known.setdefault(signature, len(known)))
        for child in node.children:
            node.size += child.size
            node.contents += child.contents + Counter([child.built] * bool(child.cost.params))
    return list(nodes.values())


def _roots(found: Matching) -> tuple[Node, Node]:
    """The two modules to begin with: the models themselves, or one and where the other contains it."""
    a, b = found.a[0], found.b[0]
    if a.cost.type_name != b.cost.type_name:
        inside = [(a, node) for node in found.b[1:] if _is_inside(a, node)]
        inside += [(node, b) for node in found.a[1:] if _is_inside(b, node)]
        if inside:
            return max(inside, key=lambda pair: _share(*pair))
    return a, b


def _is_inside(root: Node, node: Node) -> bool:
    return node.cost.type_name == root.cost.type_name and bool(node.children) and _share(root, node) >= _SAME


def _share(a: Node, b: Node) -> float:
    """The similarity of two subtrees, from 0 to 1; 1 where they are built alike."""
    if a.built == b.built:
        return 1
    both = a.contents.total() + b.contents.total()
    return 2 * (a.contents & b.contents).total() / both if both else 0


def alike(a: Node, b: Node) -> bool:
    """Whether they can be the same module changed: one type, or a class renamed with much the same inside."""
    same = a.cost.type_name == b.cost.type_name
    return same or (bool(a.children) and bool(b.children) and _share(a, b) >= _SAME)


class _Matcher:
    """The steps of `matching`; each returns whether it found anything."""

    def __init__(self, found: Matching) -> None:
        self.a, self.b, self.to_b, self.to_a = found.a, found.b, found.to_b, found.to_a

    def pair(self, a: Node, b: Node) -> None:
        """Match two modules, and their children as far as those match by name or place."""
        stack = [(a, b)]
        while stack:
            a, b = stack.pop()
            self.to_b[a], self.to_a[b] = b, a
            if alike(a, b) or None in (a.parent, b.parent):  # in a replaced module nothing is as it was
                stack += self._children(a, b)

    def _children(self, a: Node, b: Node) -> list[tuple[Node, Node]]:
        left = [child for child in a.children if child not in self.to_b]
        right = [child for child in b.children if child not in self.to_a]
        if a.built == b.built and len(left) == len(right) == len(a.children):
            return list(zip(left, right, strict=True))
        if all(child.in_list for child in (*left, *right)):
            return _aligned(left, right)
        by_key = {child.key: child for child in right}
        pairs = [(child, by_key[child.key]) for child in left if child.key in by_key]
        return [(x, y) for x, y in pairs if alike(x, y)]

    def subtrees(self) -> bool:
        """Match equal subtrees that have no match yet, the largest first, and all inside them in order."""
        found = False
        for kind in ("exact", "built"):
            groups: defaultdict[int, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
            for side, (nodes, done) in enumerate(((self.a, self.to_b), (self.b, self.to_a))):
                for node in nodes:
                    if node not in done:
                        groups[getattr(node, kind)][side].append(node)
            both = [group for group in groups.values() if all(group)]
            for left, right in sorted(both, key=lambda group: -group[0][0].size):
                found |= self._moved(left, right)
        return found

    def _moved(self, left: list[Node], right: list[Node]) -> bool:
        """Match equal subtrees of both sides, the closest first."""
        left = [node for node in left if node not in self.to_b]
        right = [node for node in right if node not in self.to_a]
        alone = len(left) == len(right) == 1
        pairs = [(a, b) for a in left for b in right if self._may_move(a, b, alone)]
        return self._closest(pairs)

    def _closest(self, pairs: list[tuple[Node, Node]]) -> bool:
        """Match pairs of which neither is matched, those with the closest places and names first."""
        before = len(self.to_b)
        for a, b in sorted(pairs, key=lambda pair: self._distance(*pair)):
            if a not in self.to_b and b not in self.to_a:
                self.pair(a, b)
        return len(self.to_b) > before

    def _distance(self, a: Node, b: Node) -> tuple[bool, float, int]:
        x, y = a.name.split("."), b.name.split(".")
        same = sum(one == other for one, other in zip(reversed(x), reversed(y), strict=False))
        same += sum(one == other for one, other in zip(x, y, strict=False))
        return not self._siblings(a, b), -_share(a, b), -same

    def _siblings(self, a: Node, b: Node) -> bool:
        return a.parent is not None and b.parent is not None and self.to_b.get(a.parent) is b.parent

    def _may_move(self, a: Node, b: Node, alone: bool) -> bool:
        """Whether equal subtrees are one that moved, and not two that look alike by chance."""
        if self._siblings(a, b):
            return True
        if not a.cost.params:
            return False
        wrapped = b.name.startswith(f"{a.name}.") or a.name.startswith(f"{b.name}.")
        if not (alone or wrapped or a.key == b.key):
            return a.exact == b.exact and a.size > 1
        # A layer of a block that is gone is not a layer of a new block elsewhere.
        return a.size > 1 or a.parent in self.to_b or b.parent in self.to_a

    def containers(self) -> bool:
        """Match modules without a match that contain much the same."""
        holders: defaultdict[int, list[Node]] = defaultdict(list)
        for node in self.b:
            if node not in self.to_a:
                for kind in node.contents:
                    holders[kind].append(node)
        pairs: dict[tuple[Node, Node], None] = {}
        for a in self.a:
            if a not in self.to_b:
                near = dict.fromkeys(b for kind in a.contents for b in holders[kind])
                pairs.update(((a, b), None) for b in near if _share(a, b) >= _SAME)
        return self._closest(list(pairs))

    def _in_place_of(self, a: Node) -> Node | None:
        """The module without a match that is alone between the neighbours that a module of a list had."""
        assert a.parent is not None
        before, after = _beside(a, -1), _beside(a, 1)
        if before is None:
            found = next(iter(self.to_b[a.parent].children), None)
        else:
            found = _beside(self.to_b[before], 1) if before in self.to_b else None
        if found is None or found in self.to_a or found.parent is not self.to_b[a.parent]:
            return None
        return found if _beside(found, 1) is (after and self.to_b.get(after, after)) else None

    def leftovers(self) -> bool:
        """Match children of matched modules without a match: by key or place, or alone of their type."""
        pairs: list[tuple[Node, Node]] = []
        for parent, other in self.to_b.items():
            if not alike(parent, other) and None not in (parent.parent, other.parent):
                continue
            left = [child for child in parent.children if child not in self.to_b]
            right = [child for child in other.children if child not in self.to_a]
            by_key = {child.key: child for child in right if not child.in_list}
            pairs += [(child, by_key[child.key]) for child in left if child.key in by_key]
            by_place = [(x, self._in_place_of(x)) for x in left if x.in_list]
            pairs += [(x, y) for x, y in by_place if y is not None]
            for kind in {
                node.cost.type_name: None for node in left if node.cost.is_leaf and node.cost.params
            }:
                alone = [[node for node in side if node.cost.type_name == kind] for side in (left, right)]
                pairs += [(x, y) for x, y in zip(*alone, strict=False) if len(alone[0]) == len(alone[1]) == 1]
        return self._closest(pairs)


def _beside(node: Node, step: int) -> Node | None:
    """The neighbour of a module in its list; None at the end."""
    siblings = node.parent.children if node.parent is not None else [node]
    at = siblings.index(node) + step
    return siblings[at] if 0 <= at < len(siblings) else None


def _aligned(left: Sequence[Node], right: Sequence[Node]) -> list[tuple[Node, Node]]:
    """The best alignment of two lists in their order (Needleman and Wunsch 1970)."""
    width = len(right) + 1
    best = [[0.0] * width for _ in range(len(left) + 1)]
    scores = [[_score(a, b) for b in right] for a in left]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            score = scores[i][j]
            paired = best[i + 1][j + 1] + score if score else 0
            best[i][j] = max(paired, best[i + 1][j], best[i][j + 1])
    pairs: list[tuple[Node, Node]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if scores[i][j] and best[i][j] == best[i + 1][j + 1] + scores[i][j]:
            pairs.append((left[i], right[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return pairs


def _score(a: Node, b: Node) -> float:
    """How well two modules of a list match; 0 where they cannot."""
    if not alike(a, b):
        return 0
    if a.built == b.built:
        score = 8.0 if a.exact == b.exact else 6.0
    elif a.children or b.children:
        score = 1 + 3 * _share(a, b)
    else:
        x, y = set(a.cost.details.split(", ")), set(b.cost.details.split(", "))
        score = 1 + 3 * len(x & y) / max(len(x | y), 1)
    # Layers decide, not the activation functions between them; with equals, the same place.
    return (score if a.cost.params or b.cost.params else score / 8) + (a.key == b.key) / 2
