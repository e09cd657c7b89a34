"""Every path on every convolution of real models, where it supports it, within the error that it states."""

import math

import pytest
import torch
import torchvision
from torch import nn

from archcost import ConvSpec
from archcost.paths import available, get

# Beyond it whole-image transforms of wide layers hold more weights than a small machine has memory.
MOST_BYTES = 1 << 30


def specs_of(name, pixels):
    """The different convolutions of a model, as it calls them; nothing is computed."""
    found = []

    def note(module, args, _):
        if isinstance(module, nn.Conv2d):
            found.append(
                ConvSpec(
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size,
                    stride=module.stride,
                    padding=module.padding,
                    dilation=module.dilation,
                    groups=module.groups,
                    bias=module.bias is not None,
                    input_size=tuple(args[0].shape[2:]),
                )
            )

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # RegNet computes its widths with tensors, which need values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, weights=None, **options).eval()
    for module in model.to("meta").modules():
        module.register_forward_hook(note)
    with torch.device("meta"):
        model(torch.empty(1, 3, pixels, pixels))
    return list(dict.fromkeys(found))


def worst_of(spec, names):
    """The largest error of any path, in units of the one that it states, and how many paths ran."""
    generator = torch.Generator().manual_seed(0)
    fan = spec.in_channels // spec.groups * math.prod(spec.kernel_size)
    shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
    weight = torch.randn(shape, generator=generator) / math.sqrt(fan)
    bias = torch.randn(spec.out_channels, generator=generator) if spec.bias else None
    x = torch.randn(1, spec.in_channels, *spec.input_size, generator=generator)
    exact = nn.functional.conv2d(
        x.double(),
        weight.double(),
        None if bias is None else bias.double(),
        spec.stride,
        [low for low, _ in spec.padding],
        spec.dilation,
        spec.groups,
    )
    largest, ratios = max(1.0, exact.abs().max().item()), {}
    for path in map(get, names):
        if path.supports(spec, torch.float32) is None and (path.workspace_bytes(spec) or 0) <= MOST_BYTES:
            y = path.run(x, path.prepare(weight, bias, spec))
            error = (y.double() - exact).abs().max().item() / largest
            ratios[path.name] = error / path.stated_error(spec, torch.float32)
    return ratios


def check(name, pixels, names):
    ran = set()
    for spec in specs_of(name, pixels):
        ratios = worst_of(spec, names)
        wrong = {path: ratio for path, ratio in ratios.items() if not ratio <= 1}
        assert not wrong, spec
        ran |= ratios.keys()
    return ran


# On maps of these sizes larger tiles are the whole image.
DISTINCT = [n for n in available() if not n.startswith("fft-") or n in ("fft-16", "fft-32", "fft-rows")]


@pytest.mark.slow
def test_a_small_model_runs_by_every_path():
    assert check("shufflenet_v2_x0_5", 96, DISTINCT) == set(DISTINCT)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_classifier_runs_by_every_path(name):
    check(name, 299 if name == "inception_v3" else 224, DISTINCT)
