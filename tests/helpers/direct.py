"""Weights and vectors of channels as the steps of blocked convolutions read them."""

from ctypes import byref, c_int64, c_void_p

import torch
import torch.nn.functional as F

from archcost.kernels.loading import library


def packed(isa, window, weight, blocked):
    """`window`: taps, strides and dilations; `blocked` is false for input in NCHW."""
    library_ = library(isa)
    six = (c_int64 * 6)(*window)
    count, pack = library_.archcost_direct_packed_floats, library_.archcost_direct_pack
    count.restype, count.argtypes = c_int64, [c_void_p, c_int64, c_int64]
    pack.restype, pack.argtypes = None, [c_void_p, *[c_int64] * 3, c_void_p, c_void_p]
    room = torch.full((count(byref(six), *weight.shape[:2]),), float("nan"))
    weight = weight.contiguous()
    pack(byref(six), *weight.shape[:2], blocked, weight.data_ptr(), room.data_ptr())
    assert not room.isnan().any()
    return room


def whole_blocks(x, of):
    """Rows of floats a channel, filled up to whole blocks with what must not count."""
    return F.pad(x, (0, -x.shape[-1] % of), value=float("nan")).contiguous()
