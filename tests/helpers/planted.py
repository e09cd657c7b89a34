"""Claims about the fields of a model, and NaN planted in the model to hold them."""

import torch

import archcost
from archcost.analysis.receptive import verify_fields


def lively(model):
    """The model in eval mode, with no weights so small that they hide what a branch sees.

    New models scale residual branches by 0 or 1e-6, and NaN is told from such zeros by a second pass.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.abs().max() < 1e-3:
                parameter.normal_(0.1, 0.3)
    return model.eval()


def layers_of(analysis):
    """The last map, as None; the first layer with a window; and those with the largest window that some
    axis does not cut, and the largest of half the input at most."""
    fields = analysis.fields
    inside = [
        field
        for field in fields.by_name.values()
        if len(field.position) == len(field.input_size)
        and all(field.stride)
        and any(1 < size < whole for size, whole in zip(field.size, field.input_size, strict=True))
        and not field.calls
    ]
    half = [f for f in inside if all(2 * s <= n for s, n in zip(f.size, f.input_size, strict=True))]
    found = [*inside[:1], *(max(some, key=lambda field: field.size) for some in (inside, half) if some)]
    last = [] if fields.network is None else [fields.network.layer]
    # The network's map may be an operation's, which is asked for by leaving the layer out.
    names = [None if name in last else name for name in (*last, *(field.layer for field in found))]
    return list(dict.fromkeys(names))


def at_three(analysis, layer):
    """A layer at its centre, a corner and an edge."""
    centre = analysis.fields.select(layer)
    edge = (-1, *centre.position[1:])
    return [centre, *(analysis.fields.select(layer, place) for place in ((0,) * len(edge), edge))]


def spots(analysis):
    return [field for layer in layers_of(analysis) for field in at_three(analysis, layer)]


def bear(model, inputs, claims=spots):
    """NaN planted in the model agrees with every claim; how many runs had to stay clean."""
    analysis = archcost.analyze(lively(model), inputs)
    assert analysis.fields.opaque == ()
    found = claims(analysis)
    witnesses = verify_fields(analysis, found, inputs)
    wrong = [
        f"{field.layer} {field.position}: {witness}"
        for field, witness in zip(found, witnesses, strict=True)
        if not witness.agrees
    ]
    assert not wrong, wrong
    return sum(not run.must_reach for witness in witnesses for run in witness.runs)


def image(side, channels=3):
    return torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(1))
