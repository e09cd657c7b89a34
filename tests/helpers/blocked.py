"""Tensors in blocked layout, and calls of the engine's steps through ctypes."""

import ctypes
from collections.abc import Iterable
from ctypes import Structure, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from archcost.kernels.loading import Images, library


class Window(Structure):
    """ArchcostWindow of src/window.h."""

    _fields_ = [
        (name, c_int64)
        for name in ("height", "width", "row_step", "column_step", "row_dilation", "column_dilation")
    ]


class Activation(Structure):
    """ArchcostActivation of src/activation.h."""

    _fields_ = [("kind", c_int64), ("low", c_float), ("high", c_float)]


IDENTITY, CLAMP = 0, 1


def lanes(isa: str) -> int:
    return int(library(isa).archcost_lanes())


def to_blocked(x: Tensor, of: int, padding: float = float("nan")) -> Tensor:
    """(batch, channels, height, width) as [batch][block][row][column][lane], the padded lanes set."""
    batch, channels, height, width = x.shape
    blocks = -(-channels // of)
    padded = torch.full((batch, blocks * of, height, width), padding)
    padded[:, :channels] = x
    return padded.view(batch, blocks, of, height, width).permute(0, 1, 3, 4, 2).contiguous()


def from_blocked(x: Tensor, channels: int) -> Tensor:
    batch, blocks, height, width, of = x.shape
    return x.permute(0, 1, 4, 2, 3).reshape(batch, blocks * of, height, width)[:, :channels].contiguous()


def blocked_images(shape: Iterable[int], of: int) -> Images:
    batch, channels, height, width = shape
    blocks = -(-channels // of)
    plane = height * width * of
    return Images(batch, channels, height, width, blocks * plane, 1, width * of, of, plane)


def run_step(
    isa: str, name: str, arguments: Structure, places: Iterable[Tensor | None], threads: int = 1
) -> None:
    addresses = [None if place is None else place.data_ptr() for place in places]
    step = getattr(library(isa), f"archcost_step_{name}")
    step.restype, step.argtypes = None, [c_void_p, c_void_p, ctypes.c_int]
    step(ctypes.byref(arguments), (c_void_p * len(addresses))(*addresses), threads)
