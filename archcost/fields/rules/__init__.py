"""The dependence rules of archcost, one file a family of operators."""


def load() -> None:
    """Import every file of rules; each registers what it holds."""
    from archcost.fields.rules import (  # noqa: F401 - importing registers the rules
        creation,
        gather,
        join,
        matmul,
        norm,
        pad,
        pointwise,
        pool,
        quantized,
        recurrent,
        reduction,
        resize,
        shape,
        vision,
        window,
    )
