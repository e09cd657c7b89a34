"""merge: several linear layers as the one convolution that does the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from archcost.errors import RewriteError
from archcost.rewriting.replacement import Chain, Conv, Replacement
from archcost.rewriting.rule import Options, Rewrite, Weights
from archcost.rewriting.subjects import Subject

if TYPE_CHECKING:
    from torch import nn

    from archcost.rewriting.weights.moments import Moments

__all__ = ["Merge"]

_NOTE = "batch normalisations count by the statistics that they have now, also in later training"


class Merge(Rewrite):
    """Convolution and batch normalisation; linear neighbours; parallel branches of one input.

    Options: ``last``, the last layer of a row that begins with this one, or ``block``, the module whose
    branches are summed (RepVGG, Ding et al. 2021; ACNet, Ding et al. 2019; MobileOne, Vasu et al. 2023).
    """

    name = "merge"
    change = "conv, BN, conv ... -> one conv; KxK + 1x1 + identity -> KxK"
    break_even = (
        "K^2 I O < sum of k^2 i o over the layers, K being the kernel that they amount to; a batch "
        "normalisation always saves"
    )

    def refusal(self, subject: Subject) -> str | None:
        block = self._block(subject)
        if isinstance(block, tuple) and block[1] != subject.name:
            return f"it is merged with {block[1]}, as one of the branches of {block[0]}"
        if isinstance(block, tuple):
            return None
        ends = self._ends(subject)
        if isinstance(ends, str):
            return f"{ends}; {block}" if block is not None else ends
        return None

    def options(self, subject: Subject, ratio: float) -> Iterable[Options]:
        block = self._block(subject)
        if isinstance(block, tuple):
            if block[1] == subject.name:
                yield {"block": block[0]}
            return
        from archcost.rewriting.merging.blocks import MOST_MACS
        from archcost.rewriting.merging.rows import row_of

        row = row_of(subject)
        for end in row.proposed:
            made = self.replacement(subject, last=end)
            if made.macs <= MOST_MACS * row.macs(end):
                yield {"last": end}

    def replacement(
        self, subject: Subject, *, last: str | None = None, block: str | None = None, **unknown: Any
    ) -> Replacement:
        if unknown or (last is None) == (block is None):
            raise RewriteError(f"{subject.name}: merge takes last='...', a layer behind it, or block='...'")
        if block is not None:
            return self._of_block(subject, block)
        from archcost.rewriting.merging.rows import row_of

        row = row_of(subject)
        found = row.up_to(str(last))
        if isinstance(found, str):
            ends = ", ".join(row.ends) or "none"
            raise RewriteError(
                f"{subject.name}: {last!r} cannot be its last layer: {found}; there are {ends}"
            )
        whole, chains = found
        spec = whole.spec(subject.spec.input_size, subject.spec.batch)
        first: dict[str, Chain] = {subject.name: (Conv(spec),)}
        return Replacement({**first, **chains}, exact=True, note=_NOTE if row.norms(str(last)) else "")

    def carry(
        self, modules: Mapping[str, nn.Module], replacement: Replacement, moments: Moments | None = None
    ) -> Weights:
        import torch

        from archcost.rewriting.merging.numbers import merged_block, merged_row
        from archcost.rewriting.surgery.refusals import is_convolution

        conv = next(step for step in replacement.chain if isinstance(step, Conv))
        with torch.no_grad():
            if is_convolution(modules[replacement.name]):
                names = list(replacement.chains)
                whole = merged_row([(name, modules[name]) for name in names], conv.spec)
            else:
                whole = merged_block(replacement.name, modules[replacement.name], conv.spec)
            if whole.spec(conv.spec.input_size, conv.spec.batch) != conv.spec:
                raise RewriteError(
                    f"{replacement.name}: its layers do not amount to {conv.spec}; the plan was made for "
                    f"another model"
                )
            return {replacement.name: [whole.weights()]}

    def _ends(self, subject: Subject) -> tuple[str, ...] | str:
        """The layers that this one can be merged up to; or why there are none."""
        from archcost.rewriting.merging.rows import row_of

        row = row_of(subject)
        return row.ends or row.stopped

    def _block(self, subject: Subject) -> tuple[str, str] | str | None:
        """The module whose branches it is one of, and the first of them; or why there is none."""
        from archcost.rewriting.merging.blocks import block_around

        return block_around(subject)

    def _of_block(self, subject: Subject, block: str) -> Replacement:
        from archcost.rewriting.merging.blocks import read_block

        found = read_block(subject.around, block)
        if isinstance(found, str):
            raise RewriteError(f"{subject.name}: {block} cannot be merged: it {found}")
        call, branches = found
        size = call.inputs[0].shape[2:]
        spec = branches.whole.spec(size, call.inputs[0].shape[0])
        return Replacement({block: (Conv(spec), *branches.tail)}, exact=True, note=_NOTE)
