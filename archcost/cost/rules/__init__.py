"""The counting rules of archcost, a file per family of operators.

The convention: a MAC is one multiply-accumulate of a convolution, a matrix product, a recurrent layer or an
attention product; every other arithmetic operation is one of `other_ops`. A complex MAC is one MAC as well,
and eight flops.
"""
