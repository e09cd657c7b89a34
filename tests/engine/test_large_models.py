"""Programs of whole models of torchvision and timm compute what these do, most of it by kernels."""

import math

import pytest
import timm
import torch
import torchvision

from archcost import kernels
from archcost.engine.evaluate import evaluate
from archcost.engine.lowering.builder import TorchStep
from archcost.engine.passes import fused
from archcost.engine.program import Program
from archcost.trace.inputs import tensors_in
from helpers.graphs import exact, graph_of, settled, worst

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}"),
]
TORCHVISION = {
    **dict.fromkeys(("alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "googlenet"), 96),
    **dict.fromkeys(("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s"), 96),
    **dict.fromkeys(
        ("densenet121", "squeezenet1_1", "shufflenet_v2_x1_0", "regnet_y_400mf", "mnasnet1_0"), 96
    ),
    **dict.fromkeys(("convnext_tiny", "swin_t", "maxvit_t", "vit_b_32"), 224),
    "inception_v3": 128,
}
TIMM = (
    *("repvgg_a0", "mobileone_s0", "ghostnet_100", "hardcorenas_a", "dpn48b", "res2net50_26w_4s", "dla34"),
    *("cspresnet50", "nfnet_l0", "hrnet_w18_small", "rexnet_100", "mixnet_s", "tinynet_e", "lcnet_050"),
    *(
        "convmixer_768_32",
        "poolformer_s12",
        "edgenext_xx_small",
        "fastvit_t8",
        "mobilevit_xxs",
        "deit_tiny_patch16_224",
    ),
)


def check(model, x):
    graph = fused(graph_of(model, (x,), torch.float32))
    expected = exact(model, (x,))
    assert worst(evaluate(graph, [x]), expected) < 1e-5  # some compute constants in float32
    with torch.no_grad():
        own = worst(tensors_in(model(x)), expected)
    program = Program(graph)
    program._memory().arena.fill_(math.nan)
    assert worst(program([x]), expected) < max(1e-5, 4 * own)
    program([torch.full_like(x, math.nan)])
    times = []
    assert worst(program([x], times), expected) < max(1e-5, 4 * own)
    called = [
        seconds for step, seconds in zip(program.steps, times, strict=True) if isinstance(step, TorchStep)
    ]
    return sum(called) / sum(times)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = settled(torchvision.models.get_model(name, weights=None, **more))
    assert check(model, torch.randn(2, 3, TORCHVISION[name], TORCHVISION[name])) < 0.5


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    model = settled(timm.create_model(name))
    size = 224 if "patch16" in name else 128
    check(model, torch.randn(1, 3, size, size))
