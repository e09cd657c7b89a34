"""archcost optimize: weights from a file, inputs from a folder of images; a single model, and a frontier."""

import pytest
import torch
from torchvision.io import write_png

import archcost
from archcost.cli import main
from archcost.cli.data import load_data

NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
"""


@pytest.fixture
def given(written, tmp_path):
    """A SPEC with its size, weights that look trained, and a folder of folders of images."""
    spec = written(NET)
    model = archcost.load(spec).model
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value + 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in model.state_dict().items()
    }
    torch.save(state, tmp_path / "trained.pt")
    for at in range(16):
        folder = tmp_path / "photographs" / f"class {at % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = torch.randint(256, (3, 14, 17 + at % 2), generator=generator, dtype=torch.uint8)
        write_png(picture, str(folder / f"{at}.png"))
    (tmp_path / "photographs" / "notes.txt").write_text("no image")
    weights = ["--weights", str(tmp_path / "trained.pt"), "--data", str(tmp_path / "photographs")]
    return [spec, "--input-size", "1,3,12,12", *weights, "--random-weights"]


@pytest.mark.slow
def test_a_folder_and_a_file_of_weights_make_a_smaller_model(given, tmp_path, capsys):
    small, report = tmp_path / "small.pt", tmp_path / "report.md"
    files = ["-o", str(small), "--report", str(report)]
    assert main(["optimize", *given, "--budget", "macs=0.6", "--no-distill", *files]) == 0
    assert "of the MACs: " in capsys.readouterr().out
    assert "asked for: macs 0.6" in report.read_text()
    old = archcost.load(given[0], weights=tmp_path / "trained.pt").model
    plan = archcost.Plan.from_json(tmp_path / "small.plan.json")
    new = plan.apply(old, weights=False)
    new.load_state_dict(torch.load(small, weights_only=True))
    x = load_data(given[6], given[0], (1, 3, 12, 12), 16)
    assert x.shape == (16, 3, 12, 12)
    assert archcost.analyze(new, x[:1]).total.macs <= 0.6 * archcost.analyze(old, x[:1]).total.macs
    with torch.no_grad():
        assert (new(x) - old(x)).norm() < 0.3 * old(x).norm()


@pytest.mark.slow
def test_a_frontier_is_printed_and_becomes_a_page(given, tmp_path, capsys):
    page = tmp_path / "frontier.html"
    code = main(["optimize", *given, "--frontier", "--points", "2", "--report", str(page)])
    assert code == 0
    out = capsys.readouterr().out
    assert "error against MACs" in out
    assert "BALF-like" in out
    assert "How far do the outputs move" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frontier", "--accelerate"], "--accelerate is of a single model"),
        (["--budget", "macs"], "'macs' is not NAME=LIMIT"),
        (["--budget", "macs=0.5"], "optimize needs -o FILE"),
    ],
)
def test_wrong_options_are_told_in_a_line(given, arguments, said, capsys):
    assert main(["optimize", *given, *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_images_go_through_the_transforms_published_with_the_weights(given, tmp_path):
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.models import ResNet18_Weights

    folder = tmp_path / "photographs"
    made = load_data(str(folder), "torchvision:resnet18", None, 2)
    first = decode_image(str(min(folder.rglob("*.png"))), ImageReadMode.RGB)
    assert made.shape == (2, 3, 224, 224)
    torch.testing.assert_close(made[0], ResNet18_Weights.DEFAULT.transforms()(first))
