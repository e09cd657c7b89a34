"""Selections for which the response to the errors of the chosen candidates themselves was measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, zip_longest
from math import inf

from archcost.errors import RewriteError
from archcost.optimizing.allowance import Allowance
from archcost.optimizing.candidates import Candidate
from archcost.optimizing.carrying import composed
from archcost.optimizing.planning import Choosing, Selection
from archcost.optimizing.sensitivity import moved_by
from archcost.optimizing.stages import Task

__all__ = ["measured"]

_MEASURING = 30.0
"""Seconds for measuring the responses."""
_KINDS = "", "narrow"
"""Labels of the choices that hold all rules, without fewer channels and with them."""
_ROUNDS = 2
"""Rounds in which they are measured, each for the errors that the one before chose."""


def measured(task: Task, choosing: Choosing, selections: list[Selection], most: int) -> list[Selection]:
    """The first ``most`` of: selections by measured responses, without fewer channels and with them in turns,
    and of each rule alone; then those given."""
    if task.data is None:
        return selections[:most]
    groups: list[list[Selection]] = []
    allowance = Allowance(_MEASURING)
    choices = choosing.singles(task.rules)
    kinds = sum(label in _KINDS for label in choices)
    for at, label in enumerate(sorted(choices, key=lambda one: _expected(choosing, one, choices[one]))):
        allowed = choices[label]
        if allowance.passed or (at >= kinds and sum(map(len, groups)) >= most):
            break
        try:
            own = replace(choosing, response=copy.deepcopy(choosing.response))
            groups.append(_rounds(task, own, label, allowed, allowance))
        except RewriteError:
            continue  # this rule alone cannot keep the budget
    turns = (one for row in zip_longest(*groups[:kinds]) for one in row if one is not None)
    found: dict[object, Selection] = {}
    for one in (*turns, *chain(*groups[kinds:]), *selections):
        found.setdefault(one.key, one)
    return list(found.values())[:most]


def _expected(
    choosing: Choosing, label: str, allowed: Callable[[Candidate], bool] | None
) -> tuple[bool, float]:
    """The order in which there is time for them: what holds most rules first, and what is expected to move
    outputs least."""
    if label not in _KINDS:
        return True, 0.0
    try:
        found = choosing.within(label, choosing.sensitive, allowed)
    except RewriteError:
        return False, inf
    return False, sum(map(choosing.sensitive, found.candidates))


def _rounds(
    task: Task,
    choosing: Choosing,
    label: str,
    allowed: Callable[[Candidate], bool] | None,
    allowance: Allowance,
) -> list[Selection]:
    """The selections of some rules, each after measuring the response to the errors of the one before; the
    last first."""
    by_name = {one.name: one for one in task.layers}
    made = [choosing.within(label or "sensitivity", choosing.sensitive, allowed)]
    for round_ in range(_ROUNDS):
        if allowance.passed:
            break
        changed = {
            name: composed(by_name[name], replacement, weights)
            for name, (replacement, weights) in task.weights(made[-1]).items()
        }
        found = moved_by(task.replay, changed, by_name, allowance)
        for one in made[-1].candidates:
            if one.name in found:
                choosing.response_to(one).add(one.error, found[one.name])
        said = f"{label}{', ' * bool(label)}measured response, round {round_ + 1}"
        made.append(choosing.within(said, choosing.sensitive, allowed))
    return made[::-1]
