"""What `archcost check` finds in known designs, and what it leaves unsaid because nobody would act on it."""

import sys

import pytest
import torch
from torch import nn

import archcost

MODULE = sys.modules[__name__]
FOUND = {
    "torchvision:resnet18": [],  # shortcuts stride past positions that the other branch reads; a stem of RGB
    "torchvision:mobilenet_v2": [],
    "torchvision:convnext_tiny": [],  # large depthwise kernels: memory decides; layers late in the context
    "torchvision:vgg16": [],  # max pooling first would be another function
    "torchvision:swin_t": [],  # windows of attention are not centred
    "torchvision:ssdlite320_mobilenet_v3_large": [],  # nms has no MACs; few weights on maps of a pixel
    "torchvision:densenet121": ["AC106"],
    "torchvision:alexnet": ["AC101"],
    "torchvision:deeplabv3_resnet50": ["AC105"],
}


LARGE = ("ssdlite320_mobilenet_v3_large", "densenet121", "deeplabv3_resnet50", "swin_t", "vgg16")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=[pytest.mark.slow] * (spec.removeprefix("torchvision:") in LARGE))
        for spec in FOUND
    ],
)
def test_known_designs_have_the_findings_that_experts_know(spec):
    assert [one.code for one in archcost.check(spec, store=False, progress=False)] == FOUND[spec]


class Net(nn.Module):
    """Layers in a row; by default with a ReLU behind each."""

    def __init__(self, *layers, act=True, join=None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.act, self.join = act, join

    def forward(self, x):
        for layer in self.layers:
            y = layer(x).relu() if self.act else layer(x)
            x = y if self.join is None else self.join(x, y)
        return x


class Branches(nn.ModuleList):
    def forward(self, x):
        return torch.cat([one(x) for one in self], 1)


def conv(inputs, outputs, kernel, **more):
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **more})


def codes(tmp_path, monkeypatch, build, size):
    """The codes that are found in a model, by way of a function in a file."""
    monkeypatch.setattr(MODULE, "model", build, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.py").write_text(
        f"import sys\n\n\ndef it():\n    return sys.modules[{__name__!r}].model()\n"
    )
    found = archcost.check("it.py:it", input_size=size, store=False, progress=False)
    assert not found.failures
    return [one.code for one in found]


MAP = (1, 32, 16, 16)
CASES = {
    "a 5x5": (lambda: Net(conv(32, 32, 5)), MAP, ["AC101"]),
    "a 5x5 between few channels": (lambda: Net(conv(3, 64, 5)), (1, 3, 16, 16), []),
    "a 4x4 of stride 2": (lambda: Net(nn.Conv2d(32, 64, 4, 2, 1)), MAP, []),
    "a wide input in a branch": (
        lambda: Net(conv(32, 256, 3), Branches([conv(256, 32, 5), conv(256, 64, 1)])),
        MAP,
        ["AC105"],
    ),
    "a depthwise 7x7": (lambda: Net(conv(32, 32, 7, groups=32)), MAP, []),
    "a 5x5 of a small share": (lambda: Net(conv(32, 32, 5), conv(32, 999, 3), conv(999, 999, 3)), MAP, []),
    "a 1x1, then averages": (lambda: Net(conv(32, 64, 1), nn.AvgPool2d(2), act=False), MAP, ["AC106"]),
    "a 1x1, then maxima": (lambda: Net(conv(32, 64, 1), nn.MaxPool2d(2), act=False), MAP, []),
    "two 1x1 in a row": (lambda: Net(conv(32, 64, 1), conv(64, 32, 1), act=False), MAP, ["AC107"]),
    "a bottleneck of two 1x1": (lambda: Net(conv(32, 4, 1), conv(4, 32, 1), act=False), MAP, []),
    "batch normalisation behind": (lambda: Net(conv(32, 32, 3), nn.BatchNorm2d(32), act=False), MAP, []),
    "a stride past the kernel": (lambda: Net(conv(32, 32, 3), conv(32, 32, 1, stride=2)), MAP, ["AC106"]),
    "a stride past the input": (lambda: Net(conv(32, 32, 1, stride=2)), MAP, ["AC205"]),
    "a 3x3 on a pixel": (lambda: Net(conv(32, 32, 3, stride=16), conv(32, 32, 3)), MAP, ["AC204"] * 2),
    "dilations alike": (lambda: Net(*(conv(32, 32, 3, dilation=2) for _ in range(2))), MAP, ["AC203"]),
    "dilations that fill": (lambda: Net(conv(32, 32, 3), conv(32, 32, 3, dilation=2)), MAP, []),
    "branches apart": (
        lambda: Net(conv(32, 32, 3, padding=0), join=lambda x, y: x + nn.functional.pad(y, (2, 0, 2, 0))),
        MAP,
        ["AC202"],
    ),
    "a causal branch": (
        lambda: Net(nn.Conv1d(32, 32, 3), join=lambda x, y: x + nn.functional.pad(y, (2, 0))),
        (1, 32, 64),
        [],
    ),
    "branches cropped": (
        lambda: Net(conv(32, 32, 3, padding=0), join=lambda x, y: x[..., 1:-1, 1:-1] + y),
        MAP,
        [],
    ),
    "context used up": (lambda: Net(*(conv(32, 32, 3) for _ in range(26))), (1, 32, 8, 8), ["AC201"]),
    "context just used up": (lambda: Net(*(conv(32, 32, 3) for _ in range(8))), (1, 32, 8, 8), []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_finding_is_made_where_there_is_something_to_do(tmp_path, monkeypatch, case):
    build, size, expected = CASES[case]
    assert codes(tmp_path, monkeypatch, build, size) == expected
