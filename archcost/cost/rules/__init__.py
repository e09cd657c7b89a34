"""The counting rules of archcost, one file a family of operators.

The convention, stated once: a MAC is one multiply-accumulate of a convolution, a matrix product, a
recurrent or an attention product; every other arithmetic operation is one `other_ops`. So it is of complex
numbers, whose eight real operations a MAC are in the flops.
"""
