"""An operator of one's own is named as uncounted, until a rule says what it costs."""

import torch
from torch import nn

import archcost


@torch.library.custom_op("example::polynomial", mutates_args=())
def polynomial(x: torch.Tensor, degree: int) -> torch.Tensor:
    return sum(x**power for power in range(degree + 1))


@polynomial.register_fake
def _(x: torch.Tensor, degree: int) -> torch.Tensor:
    return torch.empty_like(x)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return polynomial(self.conv(x), 5)


before = archcost.analyze(Model(), input_size=(1, 3, 32, 32))
for unknown in before.uncounted:
    print(f"not counted: {unknown.op} in {unknown.module or 'the model itself'}: {unknown.reason}")
assert len(before.uncounted) == 1


@archcost.rules.counting_rule("example::polynomial", kind="pointwise")
def polynomial_cost(op):
    """Horner's scheme: a product and a sum for each power."""
    return 0, 2 * op.args[1] * op.outputs[0].numel


after = archcost.analyze(Model(), input_size=(1, 3, 32, 32))
print(f"with the rule: {after.total.other_ops - before.total.other_ops:,} more operations")
assert not after.uncounted
assert after.total.other_ops - before.total.other_ops == 2 * 5 * 8 * 30 * 30
