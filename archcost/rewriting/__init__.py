"""Other layers in place of a model's own: the rules, the plan, the exchange, and what it did.

``available()`` lists the rules, ``get(name)`` is one, ``register(rule)`` adds your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archcost.rewriting.plan import Plan as Plan
    from archcost.rewriting.proposal import Proposal as Proposal
    from archcost.rewriting.replacement import Activation as Activation
    from archcost.rewriting.replacement import Conv as Conv
    from archcost.rewriting.replacement import Kept as Kept
    from archcost.rewriting.replacement import Replacement as Replacement
    from archcost.rewriting.replacement import chained as chained
    from archcost.rewriting.rule import Factorisation as Factorisation
    from archcost.rewriting.rule import Rewrite as Rewrite
    from archcost.rewriting.rule import available as available
    from archcost.rewriting.rule import get as get
    from archcost.rewriting.rule import register as register
    from archcost.rewriting.subjects import Subject as Subject
    from archcost.rewriting.surgery.exchange import replace as replace

# Public name -> its module, imported when first used, so that asking for help loads no torch.
_HOMES = {
    **{"available": "rule", "get": "rule", "register": "rule", "Rewrite": "rule", "Factorisation": "rule"},
    **{"Replacement": "replacement", "Conv": "replacement", "Activation": "replacement"},
    **{"Kept": "replacement", "chained": "replacement"},
    **{"Subject": "subjects", "Proposal": "proposal", "Plan": "plan", "replace": "surgery.exchange"},
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'archcost.rewriting' has no attribute {name!r}")
    value = getattr(import_module(f"archcost.rewriting.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
