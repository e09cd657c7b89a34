"""The compiled kernels behind the fast paths: optional, plain C called through ctypes, float32, on the CPU.

`library` gives the loaded library, or None, and then `why_not` says why; neither needs torch. Weights are
transformed and packed once (`pack_winograd`, `pack_fourier`, `pack_depthwise`, `pack_depthwise_direct`,
`pack_im2col`, `pack_long_row`), then used with any input (`winograd`, `fourier`, `depthwise`,
`depthwise_direct`, `im2col`, `long_row`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archcost.kernels.loading import (
    disabled,
    isa,
    library,
    release_scratch,
    scratch_bytes_kept,
    usable_isas,
    why_not,
)

if TYPE_CHECKING:
    from archcost.kernels.by_definition import PackedDepthwiseDirect as PackedDepthwiseDirect
    from archcost.kernels.by_definition import depthwise_direct as depthwise_direct
    from archcost.kernels.by_definition import pack_depthwise_direct as pack_depthwise_direct
    from archcost.kernels.by_fourier import PackedDepthwise as PackedDepthwise
    from archcost.kernels.by_fourier import depthwise as depthwise
    from archcost.kernels.by_fourier import fft_size as fft_size
    from archcost.kernels.by_fourier import fourier as fourier
    from archcost.kernels.by_fourier import pack_depthwise as pack_depthwise
    from archcost.kernels.by_fourier import pack_fourier as pack_fourier
    from archcost.kernels.by_im2col import PackedIm2col as PackedIm2col
    from archcost.kernels.by_im2col import im2col as im2col
    from archcost.kernels.by_im2col import im2col_scratch_bytes as im2col_scratch_bytes
    from archcost.kernels.by_im2col import pack_im2col as pack_im2col
    from archcost.kernels.by_parts import PackedLongRow as PackedLongRow
    from archcost.kernels.by_parts import long_row as long_row
    from archcost.kernels.by_parts import pack_long_row as pack_long_row
    from archcost.kernels.by_winograd import WinogradTile as WinogradTile
    from archcost.kernels.by_winograd import pack_winograd as pack_winograd
    from archcost.kernels.by_winograd import winograd as winograd
    from archcost.kernels.by_winograd import winograd_scratch_bytes as winograd_scratch_bytes
    from archcost.kernels.by_winograd import winograd_tiles as winograd_tiles
    from archcost.kernels.tiles import PackedTiles as PackedTiles

# What takes tensors, and the module it is in: imported when first used, as that loads torch.
_HOMES = {
    "PackedDepthwise": "by_fourier",
    "depthwise": "by_fourier",
    "fft_size": "by_fourier",
    "fourier": "by_fourier",
    "pack_depthwise": "by_fourier",
    "pack_fourier": "by_fourier",
    "PackedDepthwiseDirect": "by_definition",
    "depthwise_direct": "by_definition",
    "pack_depthwise_direct": "by_definition",
    "PackedIm2col": "by_im2col",
    "im2col": "by_im2col",
    "im2col_scratch_bytes": "by_im2col",
    "pack_im2col": "by_im2col",
    "PackedLongRow": "by_parts",
    "long_row": "by_parts",
    "pack_long_row": "by_parts",
    "PackedTiles": "tiles",
    "WinogradTile": "by_winograd",
    "pack_winograd": "by_winograd",
    "winograd": "by_winograd",
    "winograd_scratch_bytes": "by_winograd",
    "winograd_tiles": "by_winograd",
}

__all__ = [
    *_HOMES,
    "disabled",
    "isa",
    "library",
    "release_scratch",
    "scratch_bytes_kept",
    "usable_isas",
    "why_not",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'archcost.kernels' has no attribute {name!r}")
    value = getattr(import_module(f"archcost.kernels.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
