"""The counting rules of archcost, one file a family of operators.

The convention, stated once: a MAC is one multiply-accumulate of a convolution, a matrix product, a
recurrent or an attention product; every other arithmetic operation is one `other_ops`. So it is of complex
numbers, whose eight real operations a MAC are in the flops.
"""


def load() -> None:
    """Import every file of rules; each registers what it holds."""
    from archcost.cost.rules import (  # noqa: F401 - importing registers the rules
        attention,
        convolution,
        loss,
        matmul,
        movement,
        norm,
        pointwise,
        pool,
        quantized,
        recurrent,
        reduction,
        resize,
        vision,
    )
