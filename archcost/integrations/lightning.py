"""Lightning: a callback that shows at the start of a fit what the model costs.

For the package ``lightning`` or ``pytorch_lightning``, whichever is there; the trainers of both take it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analyze
from archcost.errors import ArchcostError, InputError

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from archcost.trace.inputs import Inputs, InputSize
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            text = "archcost.integrations.lightning needs Lightning: pip install 'archcost[lightning]'"
            raise ImportError(text) from error

__all__ = ["ArchcostSummary"]


class ArchcostSummary(Callback):
    """Prints the costliest layers and the totals when a fit starts, and logs the totals.

    The logger gets `Analysis.flat` once, as hyperparameters ``archcost/params``, ``archcost/macs`` and so on.
    In a distributed fit the first process alone does it. A model that cannot be analysed is a warning, and
    is trained all the same. The costs are those of the mode that the model is in, training as a rule.

    Args:
        inputs: as in `archcost.analyze`; by default the model's own ``example_input_array``.
        input_size: as in `archcost.analyze`, for a model without an example.
        top: the number of layers to print.
    """

    def __init__(
        self, *, inputs: Inputs | None = None, input_size: InputSize | None = None, top: int = 10
    ) -> None:
        self.inputs, self.input_size, self.top = inputs, input_size, top
        self.analysis: Analysis | None = None
        """The Analysis of the last fit's model; None where there was none."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse, print and log; Lightning calls it."""
        if not trainer.is_global_zero:
            return
        self.analysis = None
        try:
            self.analysis = self._analyse(pl_module)
        except ArchcostError as error:
            warnings.warn(f"ArchcostSummary: {error}. The fit goes on without a summary.", stacklevel=2)
            return
        self.analysis.table(top=self.top)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.analysis.flat(prefix="archcost"))

    def _analyse(self, model: LightningModule) -> Analysis:
        given = self.inputs is not None or self.input_size is not None
        if not given and model.example_input_array is None:
            raise InputError(
                f"{type(model).__name__} has no example_input_array; set it in the model, or write "
                f"ArchcostSummary(input_size=(batch, ...))"
            )
        return analyze(model, self.inputs, input_size=self.input_size, progress=False)
