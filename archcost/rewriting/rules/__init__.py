"""The rules, one file each, in the order in which they are presented."""

from archcost.rewriting.rule import Rewrite
from archcost.rewriting.rules.asymmetric import Asymmetric
from archcost.rewriting.rules.bottleneck import Bottleneck
from archcost.rewriting.rules.layout import Layout
from archcost.rewriting.rules.merge import Merge
from archcost.rewriting.rules.pool_first import PoolFirst
from archcost.rewriting.rules.reduce_first import ReduceFirst
from archcost.rewriting.rules.separable import Separable
from archcost.rewriting.rules.small_kernels import SmallKernels

RULES: tuple[Rewrite, ...] = (
    SmallKernels(),
    Asymmetric(),
    Bottleneck(),
    Separable(),
    ReduceFirst(),
    PoolFirst(),
    Merge(),
    Layout(),
)
