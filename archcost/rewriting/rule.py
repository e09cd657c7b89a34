"""Rewrite, the interface of a rewrite rule, and its registry: each file in ``rules/`` lists its RULES."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from archcost.errors import Refusal
from archcost.registry import NameRegistry
from archcost.rewriting.replacement import Option, Replacement, RuleOptions
from archcost.rewriting.survey.survey import Subject
from archcost.weights.features import weight_of
from archcost.weights.moments import Moments
from archcost.weights.unfolded import Unfolded

__all__ = [
    "Factorisation",
    "Modules",
    "Option",
    "Refusal",
    "Rewrite",
    "RuleOptions",
    "Weights",
    "available",
    "get",
    "own_weights",
    "register",
]

Weights = dict[str, list[tuple["Tensor", "Tensor | None"]]]
"""Weight and bias of every convolution of a chain, in order, by the name of the replaced module."""


Modules = Mapping[str, nn.Module]
"""The modules that a replacement replaces or keeps, by name."""


class Rewrite(ABC):
    """A rewrite rule: where it applies and why not, the new layers, and their weights."""

    name: ClassVar[str]
    """The rule's name in reports, arguments and files."""
    change: ClassVar[str]
    """The change in short: ``KxK -> 1xK, Kx1``."""
    break_even: ClassVar[str]
    """The formula under which the new layers have fewer MACs, with the meaning of its letters."""

    @abstractmethod
    def refusal(self, subject: Subject) -> Refusal | None:
        """Why the rule does not apply to this convolution, in words that follow its name; None where it does.

        Reasons that hold for every rule (`Subject.refusal`) were checked before.
        """

    @abstractmethod
    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        """The options worth proposing, each with about ``ratio`` times the MACs of the layer.

        A rule without a free size gives its options whatever the ratio; repeated options count once.
        """

    @abstractmethod
    def replacement(self, subject: Subject, **options: Any) -> Replacement:
        """The new layers for some options; nothing is built.

        Raises:
            RewriteError: an option is not valid for this layer; the message names valid ones.
        """

    @abstractmethod
    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        """Weights for the new convolutions from those of the old modules, in float64.

        Args:
            modules: the modules that the replacement replaces or keeps, by name, with their parameters.
            moments: mean and covariance of the patches of the input of `fitted`, where there is calibration
                data.

        Returns:
            Weight and bias of every new convolution, by the name of the replaced module.
        """

    def fitted(self, replacement: Replacement) -> str:
        """Name of the module whose new weights are fitted to data."""
        return replacement.name


class Factorisation(Rewrite):
    """A rule that factors a convolution into a chain of them, with at most activation functions between.

    Subclasses give the first kernels (`factors`); `archcost.weights` refines them by alternating least
    squares and fits them to calibration data.
    """

    @abstractmethod
    def factors(self, kernel: Tensor, replacement: Replacement, moments: Moments | None) -> list[Tensor]:
        """First kernels for the convolutions of the chain, where possible optimal in closed form, in float64.

        Args:
            kernel: (groups, out_channels / groups, in_channels / groups, *kernel_size), as the layer's
                weight with its groups apart; of a transposed layer (groups, in / groups, out / groups, ...).
                Of float64, or of float32 where only an error is asked for.
            moments: mean and covariance of the patches of the layer's input: where given, minimise the error
            of
                the output, tr(D C D') for D = W - W', instead of that of the kernel.

        Returns:
            For each convolution of the chain, a kernel in the shape of its ``weight``.
        """

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float | None:
        """||W - W'||^2 from singular values alone; None where they do not give it.

        It is an upper bound on the error of the best kernels.

        Args:
            kernel: as in `factors`, but with outputs before inputs also where the layer is transposed.
        """
        return None

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        from archcost.rewriting.carry import factored

        return {replacement.name: factored(self, modules[replacement.name], replacement, moments)}


def own_weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution, unchanged, in float64."""
    bias = module.bias
    return weight_of(module).detach().double(), bias.detach().double() if isinstance(bias, Tensor) else None


table = NameRegistry(
    Rewrite,  # type: ignore[type-abstract]
    "rule",
    "rewrite rules",
    home="archcost.rewriting.rules",
    group="archcost.rewrites",
    holds="RULES",
)

_planned = NameRegistry(
    Rewrite,  # type: ignore[type-abstract]
    "rule",
    "rules of plans",
    home="archcost.rewriting.rules",
    group="archcost.rewrites",
    holds="PLANNED",
)

available, register = table.available, table.register


def get(name: str) -> Rewrite:
    """The rule of a name, those included that are in plans alone and not among `available`."""
    return _planned.entries.get(name) or table.get(name)
