"""archcost: what a convolutional PyTorch model costs, what could be cheaper, and the change done for you."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archcost.analysis import Analysis as Analysis
    from archcost.analysis import analyze as analyze
    from archcost.comparison import Comparison as Comparison
    from archcost.comparison import compare as compare
    from archcost.cost.registry import Count as Count
    from archcost.cost.registry import counting_rule as counting_rule
    from archcost.effective import effective_field as effective_field
    from archcost.errors import ArchcostError as ArchcostError
    from archcost.errors import InputError as InputError
    from archcost.errors import ModelError as ModelError
    from archcost.errors import RewriteError as RewriteError
    from archcost.errors import SpecError as SpecError
    from archcost.fields.effective import EffectiveField as EffectiveField
    from archcost.fields.field import ReceptiveField as ReceptiveField
    from archcost.fields.registry import field_rule as field_rule
    from archcost.measured import Measured as Measured
    from archcost.measuring import measure as measure
    from archcost.models import load as load
    from archcost.models import zoo as zoo
    from archcost.paths.convolve import convolve as convolve
    from archcost.pictures import plot_growth as plot_growth
    from archcost.pictures import plot_im2col as plot_im2col
    from archcost.pictures import plot_stack as plot_stack
    from archcost.pictures import plot_strassen as plot_strassen
    from archcost.pictures import plot_tiles as plot_tiles
    from archcost.pictures import plot_window as plot_window
    from archcost.pictures import plot_winograd as plot_winograd
    from archcost.proposals import Proposals as Proposals
    from archcost.proposals import propose as propose
    from archcost.receptive import receptive_field as receptive_field
    from archcost.rewriting.accelerating.accelerate import accelerate as accelerate
    from archcost.rewriting.accelerating.acceleration import Acceleration as Acceleration
    from archcost.rewriting.plan import Plan as Plan
    from archcost.rewritten import Rewritten as Rewritten
    from archcost.rewritten import rewrite as rewrite
    from archcost.spec import ConvSpec as ConvSpec
    from archcost.spec import FieldStep as FieldStep
    from archcost.spec import stacked_field as stacked_field
    from archcost.witnesses import CrossCheck as CrossCheck
    from archcost.witnesses import crosscheck as crosscheck

# Public name -> the module it lives in, imported when the name is first used: torch takes a second.
_HOMES = {
    "Analysis": "archcost.analysis",
    "Comparison": "archcost.comparison",
    "analyze": "archcost.analysis",
    "compare": "archcost.comparison",
    "Count": "archcost.cost.registry",
    "counting_rule": "archcost.cost.registry",
    "CrossCheck": "archcost.witnesses",
    "crosscheck": "archcost.witnesses",
    "ArchcostError": "archcost.errors",
    "InputError": "archcost.errors",
    "ModelError": "archcost.errors",
    "SpecError": "archcost.errors",
    "RewriteError": "archcost.errors",
    "Measured": "archcost.measured",
    "measure": "archcost.measuring",
    "load": "archcost.models",
    "zoo": "archcost.models",
    "convolve": "archcost.paths.convolve",
    "accelerate": "archcost.rewriting.accelerating.accelerate",
    "Acceleration": "archcost.rewriting.accelerating.acceleration",
    "Proposals": "archcost.proposals",
    "propose": "archcost.proposals",
    "Plan": "archcost.rewriting.plan",
    "Rewritten": "archcost.rewritten",
    "rewrite": "archcost.rewritten",
    "ConvSpec": "archcost.spec",
    "FieldStep": "archcost.spec",
    "stacked_field": "archcost.spec",
    "ReceptiveField": "archcost.fields.field",
    "field_rule": "archcost.fields.registry",
    "receptive_field": "archcost.receptive",
    "EffectiveField": "archcost.fields.effective",
    "effective_field": "archcost.effective",
    "plot_growth": "archcost.pictures",
    "plot_im2col": "archcost.pictures",
    "plot_stack": "archcost.pictures",
    "plot_strassen": "archcost.pictures",
    "plot_tiles": "archcost.pictures",
    "plot_window": "archcost.pictures",
    "plot_winograd": "archcost.pictures",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("archcost")
    if name in ("paths", "rewriting"):  # folders whose functions are public: archcost.paths.available()
        return import_module(f"archcost.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'archcost' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
