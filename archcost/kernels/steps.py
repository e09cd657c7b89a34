"""The arguments of a program's steps, as the C structures of ``src``."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int64

from archcost.kernels.loading import Images, Problem

__all__ = [
    "ActivationArguments",
    "AffineArguments",
    "AttentionArguments",
    "ConversionArguments",
    "DepthwiseArguments",
    "DirectArguments",
    "ElementwiseArguments",
    "FftDepthwiseArguments",
    "GlobalPoolArguments",
    "GroupedArguments",
    "Heads",
    "InterpolationArguments",
    "InvertedResidualArguments",
    "LayerNormArguments",
    "LinearArguments",
    "Map",
    "Mask",
    "MatmulArguments",
    "PoolArguments",
    "Run",
    "Runs",
    "SoftmaxArguments",
    "SqueezeArguments",
    "TilesArguments",
    "WindowArguments",
    "gather_arguments",
]


class ActivationArguments(Structure):
    """ArchcostActivation of src/activation.h."""

    _fields_ = [("kind", c_int64), ("low", c_float), ("high", c_float)]


class WindowArguments(Structure):
    """ArchcostWindow of src/window.h."""

    _fields_ = [
        (name, c_int64)
        for name in ("height", "width", "row_step", "column_step", "row_dilation", "column_dilation")
    ]


class DirectArguments(Structure):
    """ArchcostDirect of src/direct.h."""

    _fields_ = [
        *((name, Images) for name in ("input", "output", "addend")),
        ("window", WindowArguments),
        *((name, c_int64) for name in ("pad_top", "pad_left", "gate_batch_stride")),
        ("activation", ActivationArguments),
        ("input_low", c_float),
        ("input_high", c_float),
    ]


class DepthwiseArguments(Structure):
    """ArchcostDepthwise of src/depthwise_direct.h."""

    _fields_ = [
        ("input", Images),
        ("output", Images),
        ("window", WindowArguments),
        ("pad_top", c_int64),
        ("pad_left", c_int64),
        ("activation", ActivationArguments),
    ]


class InvertedResidualArguments(Structure):
    """ArchcostInvertedResidual of src/inverted_residual.h."""

    _fields_ = [
        *((name, Images) for name in ("input", "output", "addend")),
        *(
            (name, c_int64)
            for name in ("channels", "taps", "step", "pad_top", "pad_left", "sums_batch_stride")
        ),
        *((name, ActivationArguments) for name in ("expansion", "depthwise", "projection")),
    ]


class LinearArguments(Structure):
    """ArchcostLinear of src/linear.h."""

    _fields_ = [
        ("activation", ActivationArguments),
        *(
            (name, c_int64)
            for name in ("rows", "inputs", "outputs", "in_stride", "out_stride", "addend_stride")
        ),
    ]


class Runs(Structure):
    """ArchcostRuns of src/elementwise.h."""

    _fields_ = [("batch", c_int64), ("blocks", c_int64), ("length", c_int64)]


class Run(Structure):
    """ArchcostRun of src/elementwise.h."""

    _fields_ = [("batch_stride", c_int64), ("block_stride", c_int64)]


class ElementwiseArguments(Structure):
    """ArchcostElementwise of src/elementwise.h."""

    _fields_ = [
        ("activation", ActivationArguments),
        ("operation", c_int64),
        ("second", c_int64),
        ("runs", Runs),
        ("a", Run),
        ("b", Run),
        ("out", Run),
    ]


class AffineArguments(Structure):
    """ArchcostAffine of src/elementwise.h."""

    _fields_ = [
        ("activation", ActivationArguments),
        ("second", c_int64),
        ("runs", Runs),
        ("a", Run),
        ("factors", Run),
        ("out", Run),
    ]


class ConversionArguments(Structure):
    """ArchcostConversion of src/layout.h."""

    _fields_ = [("input", Images), ("output", Images)]


class PoolArguments(Structure):
    """ArchcostPool of src/max_pool.h."""

    _fields_ = [
        ("input", Images),
        ("output", Images),
        ("window", WindowArguments),
        *((name, c_int64) for name in ("pad_top", "pad_left", "count_include_pad", "divisor")),
    ]


class Map(Structure):
    """ArchcostMap of src/squeeze.h."""

    _fields_ = [
        (name, c_int64)
        for name in ("batch", "channels", "pixels", "batch_stride", "block_stride", "pixel_stride")
    ]


class GlobalPoolArguments(Structure):
    """ArchcostGlobalPool of src/squeeze.h."""

    _fields_ = [
        ("input", Map),
        ("activation", ActivationArguments),
        ("out_batch_stride", c_int64),
        ("scale", c_float),
    ]


class SqueezeArguments(Structure):
    """ArchcostSqueeze of src/squeeze.h."""

    _fields_ = [
        ("input", Map),
        ("first", ActivationArguments),
        ("second", ActivationArguments),
        ("hidden", c_int64),
        ("out_batch_stride", c_int64),
        ("scale", c_float),
    ]


class LayerNormArguments(Structure):
    """ArchcostLayerNorm of src/normalise.h."""

    _fields_ = [("input", Map), ("output", Map), ("activation", ActivationArguments), ("epsilon", c_float)]


class SoftmaxArguments(Structure):
    """ArchcostSoftmax of src/normalise.h."""

    _fields_ = [(name, c_int64) for name in ("rows", "length", "in_stride", "out_stride")]


class MatmulArguments(Structure):
    """ArchcostMatmul of src/attention.h."""

    _fields_ = [
        ("activation", ActivationArguments),
        *((name, c_int64) for name in ("batch", "heads", "rows", "depth", "columns", "transposed")),
        *(
            (f"{tensor}_{level}_stride", c_int64)
            for tensor in ("a", "b", "out")
            for level in ("batch", "head", "row")
        ),
    ]


class Heads(Structure):
    """ArchcostHeads of src/attention.h."""

    _fields_ = [("batch_stride", c_int64), ("head_stride", c_int64), ("row_stride", c_int64)]


class Mask(Structure):
    """ArchcostMask of src/attention.h."""

    _fields_ = [(name, c_int64) for name in ("period", "batch_stride", "head_stride", "row_stride")]


class AttentionArguments(Structure):
    """ArchcostAttention of src/attention.h."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "heads", "queries", "keys", "depth", "values")),
        *((name, Heads) for name in ("q", "k", "v", "out")),
        ("first_mask", Mask),
        ("second_mask", Mask),
        ("scale", c_float),
    ]


class InterpolationArguments(Structure):
    """ArchcostInterpolation of src/interpolate.h."""

    _fields_ = [
        ("input", Images),
        ("output", Images),
        ("mode", c_int64),
        ("row_scale", c_float),
        ("column_scale", c_float),
    ]


class TilesArguments(Structure):
    """ArchcostTiles of src/tiled_convolution.h."""

    _fields_ = [
        *((name, c_int64) for name in ("family", "first", "second")),
        ("convolution", Problem),
        ("activation", ActivationArguments),
    ]


class FftDepthwiseArguments(Structure):
    """ArchcostFftDepthwise of src/depthwise.h."""

    _fields_ = [
        *((name, c_int64) for name in ("height", "width", "transform_size")),
        ("convolution", Problem),
        ("activation", ActivationArguments),
    ]


class GroupedArguments(Structure):
    """ArchcostGrouped of src/grouped.h."""

    _fields_ = [
        ("input", Images),
        ("output", Images),
        ("window", WindowArguments),
        *((name, c_int64) for name in ("pad_top", "pad_left", "groups")),
        ("activation", ActivationArguments),
    ]


MOST_SOURCES = 16


def gather_arguments(channels: int) -> type[Structure]:
    """ArchcostGather of src/layout.h, with its table of so many channels."""
    fields = [
        *((name, c_int64) for name in ("batch", "channels", "pixels", "sources")),
        *((name, c_int64) for name in ("batch_stride", "block_stride")),
        ("source_batch_stride", c_int64 * MOST_SOURCES),
        ("source_block_stride", c_int64 * MOST_SOURCES),
        ("table", c_int64 * channels),
    ]
    return type("GatherArguments", (Structure,), {"_fields_": fields})
