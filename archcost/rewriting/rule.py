"""Rewrite: what every rule answers. A rule is one file in `archcost/rewriting/rules/`, in its RULES."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from archcost.registry import NameRegistry
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.survey.survey import Subject
from archcost.weights.moments import Moments
from archcost.weights.unfolded import Unfolded

__all__ = [
    *("Factorisation", "Modules", "Options", "Rewrite", "Weights"),
    *("available", "get", "own_weights", "register"),
]

Options = dict[str, Any]
"""What a rule leaves open, such as ``{"rank": 32}``: numbers and words, as JSON has them."""

Weights = dict[str, list[tuple["Tensor", "Tensor | None"]]]
"""By the name of a replaced module, weight and bias of every convolution of its chain, in order."""


Modules = Mapping[str, nn.Module]
"""By name, those that a replacement replaces or keeps."""


class Rewrite(ABC):
    """A rule: where it applies and why not, what would stand there, and the weights that go with it."""

    name: ClassVar[str]
    """As reports, options and files call it."""
    change: ClassVar[str]
    """From what to what: ``KxK -> 1xK, Kx1``."""
    break_even: ClassVar[str]
    """The condition under which it has fewer MACs, as a formula, and what its letters mean."""

    @abstractmethod
    def refusal(self, subject: Subject) -> str | None:
        """Why it does not apply to this convolution, in words that follow its name; None where it does.

        Only reasons of the rule's own: those that hold for every rule (`Subject.refusal`) were asked before.
        """

    @abstractmethod
    def options(self, subject: Subject, ratio: float) -> Iterable[Options]:
        """The choices worth proposing that have about ``ratio`` times the MACs of the layer.

        A rule without a free size gives its choices whatever the ratio; one that comes twice is taken once.
        """

    @abstractmethod
    def replacement(self, subject: Subject, **options: Any) -> Replacement:
        """What would stand there, on paper.

        Raises:
            RewriteError: an option makes no sense for this layer; the message says what does.
        """

    @abstractmethod
    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        """Weights for the new convolutions, made of those of the old modules, in float64.

        Args:
            modules: by name, those that the replacement replaces or keeps, with their parameters.
            moments: of the inputs of the layer, where the user gave data.
        """


class Factorisation(Rewrite):
    """A rule that puts a chain of convolutions in the place of one, linear but for what lies between.

    Its subclasses say how to begin; the rest is the same for all: see `archcost.weights`.
    """

    @abstractmethod
    def factors(self, kernel: Tensor, replacement: Replacement, moments: Moments | None) -> list[Tensor]:
        """First kernels for the convolutions of the chain, best in closed form, in float64.

        Args:
            kernel: (groups, out_channels / groups, in_channels / groups, *kernel_size), as the layer's
                weight with its groups apart; of a transposed layer (groups, in / groups, out / groups, ...).
                Of float64, or of float32 where only an error is asked for.
            moments: of the layer's input: where given, the error of the output is to be small, and not that
                of the kernel.

        Returns:
            For each convolution of the chain, a kernel in the shape of its ``weight``.
        """

    def lost(self, kernel: Unfolded, replacement: Replacement) -> float | None:
        """The squared norm of what the chain loses of a kernel, where singular values tell; else None.

        It may be somewhat more than the best kernels lose, and never less.

        Args:
            kernel: as in `factors`, but with outputs before inputs also where the layer is transposed.
        """
        return None

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        from archcost.rewriting.carry import factored

        return {replacement.name: factored(self, modules[replacement.name], replacement, moments)}


def own_weights(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution as they are, in float64."""
    bias = module.bias
    return module.weight.detach().double(), None if bias is None else bias.detach().double()


table = NameRegistry(
    Rewrite,  # type: ignore[type-abstract]
    "rule",
    "rewrite rules",
    home="archcost.rewriting.rules",
    group="archcost.rewrites",
    holds="RULES",
)

available, get, register = table.available, table.get, table.register
