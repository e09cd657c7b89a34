"""Rules for operators that archcost does not know: their costs, and their receptive fields.

`counting_rule` registers a function that counts an operator, `field_rule` a function that says which elements
of its inputs an operator's outputs depend on. Packages register theirs in a module that an entry point of the
group ``archcost.rules`` or ``archcost.field_rules`` names.
"""

from archcost.cost.registry import KINDS, Count, counting_rule
from archcost.fields.registry import See, field_rule, pointwise
from archcost.trace.graph import Op

__all__ = ["KINDS", "Count", "Op", "See", "counting_rule", "field_rule", "pointwise"]
