"""What an analysis shows first: what costs most on one screen, with every output and assumption."""

import pytest
import torch
from torch import nn

import archcost

SCREEN = (80, 40)
NETWORKS = ["densenet201", "vit_b_16", "mobilenet_v3_large"]


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x.mean((0, 1)))


class Awkward(nn.Module):
    """Many operations that are not counted, modules that are never called, outputs and long names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(
            {f"a_layer_with_a_rather_long_name_{i}": nn.Conv2d(3, i + 1, 3) for i in range(30)}
        )
        self.spectra = nn.ModuleList(Spectrum() for _ in range(30))
        self.idle = nn.ModuleDict({f"idle_{chr(97 + i)}": nn.Linear(2, 2) for i in range(20)})

    def forward(self, x):
        found = [layer(x) for layer in self.layers.values()]
        return [*found, *(spectrum(y) for spectrum, y in zip(self.spectra, found, strict=True))]


def shown(analysis):
    return analysis.to_text(width=SCREEN[0]).splitlines()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_fits_a_terminal(name):
    lines = shown(archcost.analyze(f"torchvision:{name}", progress=False))
    assert len(lines) <= SCREEN[1] - 2  # the command, and the prompt after it
    assert max(map(len, lines)) <= SCREEN[0]


def test_it_fits_a_terminal_whatever_there_is_to_say():
    lines = shown(archcost.analyze(Awkward(), input_size=(1, 3, 8, 8)))
    assert len(lines) <= SCREEN[1] - 2
    assert any(line.startswith("Not counted: and ") for line in lines)


def test_the_layers_that_cost_most_come_first_and_all_adds_up():
    analysis = archcost.analyze("torchvision:resnet50", progress=False)
    rows = [line.split() for line in analysis.to_text(columns=["macs"]).split("─\n")[1].splitlines()]
    macs = [
        float(row[-2]) * {"k": 1e3, "M": 1e6, "G": 1e9}[row[-1]] for row in rows if not row[0].startswith("─")
    ]
    assert len(macs) == 11
    assert macs[:10] == sorted(macs[:10], reverse=True)
    assert sum(macs) == pytest.approx(analysis.total.macs, rel=0.01)


def test_equal_layers_are_one_row_and_others_are_not():
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=p, groups=g) for p, g in ((1, 1), (1, 1), (1, 2))))
    text = archcost.analyze(model, input_size=(1, 4, 8, 8)).to_text()
    assert "0 x2 (Conv2d)" in text
    assert "3x3, groups 2 " in text


def test_of_a_name_too_long_both_ends_are_shown():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(2)))
    model[0].add_module("a_rather_long_name_of_a_block", nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)))
    model[1] = nn.Linear(4, 4)
    text = archcost.analyze(model, input_size=(1, 8)).to_text(width=44)
    (line,) = [line for line in text.splitlines() if "…" in line]
    assert line.split()[0] == "0.a_rather_long…me_of_a_block.1"


def test_without_macs_the_other_operations_decide():
    model = nn.Sequential(nn.ReLU(), nn.AvgPool2d(3), nn.Flatten())
    lines = archcost.analyze(model, input_size=(1, 3, 9, 9)).to_text().splitlines()
    assert [line.split()[0] for line in lines[5:7]] == ["0", "1"]


@pytest.mark.parametrize(
    ("layer", "size", "kernel"),
    [
        (nn.Conv2d(32, 32, 3, stride=2, groups=32), (1, 32, 9, 9), "3x3/2, groups 32"),
        (nn.Conv2d(3, 4, (1, 7), stride=(1, 2), dilation=(1, 2)), (1, 3, 9, 19), "1x7/1x2, dilation 1x2"),
        (nn.ConvTranspose2d(3, 4, 2, 2), (1, 3, 4, 4), "2x2/2, transposed"),
        (nn.Conv1d(3, 4, 5), (1, 3, 9), "5"),
        (nn.MaxPool2d(3, 2), (1, 3, 9, 9), "3x3/2"),
        (nn.AvgPool2d(2), (1, 3, 8, 8), "2x2/2"),
        (nn.Linear(3, 4), (1, 3), None),
    ],
)
def test_the_kernel_is_said_in_a_few_characters(layer, size, kernel):
    analysis = archcost.analyze(nn.Sequential(layer), input_size=size)
    assert analysis.to_pandas().set_index("name").loc["0", "kernel"] == kernel or kernel is None
    assert analysis.kernels.get("0") == kernel


def test_kernels_of_a_function_belong_to_the_module_that_calls_it():
    class Own(nn.Module):
        def forward(self, x):
            for size in (1, 3, 5):
                x = nn.functional.conv2d(x, torch.ones(3, 3, size, size))
            return x

    assert archcost.analyze(Own(), input_size=(1, 3, 9, 9)).kernels == {"": "1x1, 3x3, ..."}


def test_every_output_is_on_the_first_screen():
    class Outputs(nn.Module):
        def forward(self, x):
            return [x.flatten(1)[:, :n] for n in range(1, 7)]

    lines = shown(archcost.analyze(Outputs(), input_size=(1, 3, 4, 4)))
    assert "outputs 1x1, 1x2, 1x3, 1x4, 1x5, 1x6" in " ".join(" ".join(lines).split())
    two = archcost.analyze(nn.LSTM(4, 5), input_size=(2, 4))
    assert "2x5, 2 of 1x5" in next(line for line in shown(two) if line.startswith("Total"))


def test_what_is_asked_for_is_shown_instead():
    analysis = archcost.analyze("torchvision:resnet18", progress=False)
    assert "Costliest" in analysis.to_text()
    for options in (
        {"depth": 1},
        {"depth": None},
        {"depth": "all"},
        {"full": True},
        {"top": 3},
        {"by": "modules"},
    ):
        text = analysis.to_text(**options)
        assert "Costliest" not in text
        assert "Field: size 435" in text
    assert analysis.to_text(depth="all") == analysis.to_text(depth=None)


def test_markdown_folds_the_rest_below_sixty_lines():
    analysis = archcost.analyze(Awkward(), input_size=(1, 3, 8, 8))
    above, _, folded = analysis.to_markdown().partition("<details>")
    assert above.count("\n") < 60
    assert "Costliest" in above
    assert "| layers (ModuleDict)" in folded
    assert "Units: 1 MAC" in folded
    assert "<details>" not in analysis.to_markdown(full=True)
