"""Fast kernels on `meta` beside the framework's own and a real run."""

import warnings

import torch
from hypothesis import settings
from hypothesis import strategies as st

from archcost.trace.recording.meta import FAST_META

LAYOUTS = ("contiguous", "channels_last", "permuted", "strided", "expanded")
PLAIN = ("contiguous", "contiguous", "permuted")
MANY = settings(max_examples=150, deadline=None, derandomize=True)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def facts(result):
    """Shape, dtype and strides of everything returned; strides of axes of size 1 mean nothing."""
    if result is None:
        return result
    if isinstance(result, torch.Tensor):
        strides = [s for n, s in zip(result.shape, result.stride(), strict=True) if n > 1]
        return tuple(result.shape), result.dtype, strides if result.numel() else []
    return [facts(item) for item in result if item is not None]


def without_strides(found):
    if isinstance(found, list):
        return [without_strides(one) for one in found]
    return found if isinstance(found, type) else found[:2]


def outcome(call):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return facts(call())
    except Exception as error:
        return type(error)


def on(device, value):
    if isinstance(value, torch.Tensor):
        if device == "cpu" and 0 in value.stride():
            return value
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return copy if device == "meta" else copy.copy_(value)
    return value


def check(operator, *args, meta=True, real=True, strides=True, **kwargs):
    """Whether the fast kernel applies; if so, it says what the framework's on `meta` and a real run say."""

    def run(call, device):
        return outcome(lambda: call(*[on(device, arg) for arg in args], **kwargs))

    mine = run(FAST_META[operator], "meta")
    if mine is None:
        return False
    if isinstance(mine, type):  # it may fail only where the operator does
        assert isinstance(run(operator, "cpu"), type)
        return False
    if meta:
        assert run(operator, "meta") == mine
    if real:
        theirs = run(operator, "cpu")
        assert theirs == mine if strides else without_strides(theirs) == without_strides(mine)
    return True


@st.composite
def tensors(draw, dims=(0, 5), dtypes=FLOATS, sizes=(1, 5), shape=None, layouts=LAYOUTS):
    """A tensor of any shape and memory format: contiguous, channels last, permuted, strided, expanded."""
    if shape is None:
        shape = draw(st.lists(st.integers(*sizes), min_size=dims[0], max_size=dims[1]))
    dtype = draw(st.sampled_from(dtypes))
    order = draw(st.permutations(range(len(shape))))
    layout = draw(st.sampled_from(layouts))
    x = torch.ones(shape, dtype=dtype)
    if layout == "channels_last" and x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "permuted" and x.dim():
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return torch.ones([shape[i] for i in order], dtype=dtype).permute(inverse)
    if layout == "strided" and x.dim():
        return torch.ones([2 * n for n in shape], dtype=dtype)[tuple(slice(None, None, 2) for _ in shape)]
    if layout == "expanded" and x.dim():
        return torch.ones([1, *shape[1:]], dtype=dtype).expand(shape)
    return x
