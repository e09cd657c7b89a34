"""SPECs: what can be named is loaded, what cannot says why, and nothing is downloaded."""

import socket

import pytest
import torch
from torch import nn

import archcost
from archcost import SpecError
from archcost.analysis.zoo import zoo_entries
from archcost.models.vision import build_torchvision, published

FILE = """
import torch
from torch import nn
from sibling import WIDTH

class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
    def forward(self, x):
        return self.conv(x)

def factory():
    return nn.Sequential(Net(4), nn.ReLU())

ready = Net(2)
number = 3
def late():
    from sibling import WIDTH
    return Net(WIDTH)
def demanding(width):
    return Net(width)
def broken():
    raise RuntimeError("no such width")
def wrong():
    return 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mymodels.py").write_text(FILE)
    (tmp_path / "sibling.py").write_text("WIDTH = 6\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("attribute", "params"), [("Net", 6 * 10), ("factory", 4 * 10), ("ready", 2 * 10), ("late", 6 * 10)]
)
@pytest.mark.parametrize("form", ["mymodels.py:{}", "mymodels:{}"])
def test_a_file_or_a_module_names_a_class_a_function_or_a_model(folder, attribute, params, form):
    loaded = archcost.load(form.format(attribute))
    assert isinstance(loaded.model, nn.Module)
    assert not loaded.model.training
    assert archcost.analyze(form.format(attribute)).total.params == params


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "unknown model 'resnet50': did you mean torchvision:resnet50 or timm:resnet50?"),
        ("torchvision:resnet5", "torchvision has no model 'resnet5'; did you mean resnet50"),
        ("timm:resnet5000", "timm has no model 'resnet5000'"),
        ("nowhere.py:Net", "there is no file 'nowhere.py'"),
        ("no.such.package:Net", "cannot import no.such.package"),
        ("mymodels.py:Nett", "there is no 'Nett'; did you mean Net"),
        ("mymodels.py:number", "is a int; expected a module, a class or a function"),
        ("mymodels.py:broken", "building the model failed: RuntimeError: no such width"),
        ("mymodels.py:demanding", "name a function without arguments"),
        ("mymodels.py:wrong", "returned a int, not a torch.nn.Module"),
    ],
)
def test_a_spec_that_names_nothing_says_so_in_one_line(folder, spec, message):
    with pytest.raises(SpecError) as error:
        archcost.load(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_loading_leaves_the_import_path_alone(folder):
    import sys

    before = list(sys.path)
    archcost.load("mymodels.py:Net")
    archcost.load("mymodels:Net")
    assert sys.path == before


def test_a_loaded_model_can_be_run_and_one_without_values_costs_nothing():
    real = archcost.load("torchvision:squeezenet1_1").model
    assert real(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    light = archcost.load("torchvision:regnet_y_128gf", without_values=True)
    assert light.without_values
    assert sum(p.numel() for p in light.model.parameters() if not p.is_meta) < 1_000_000


def test_timm_models_come_with_their_input_size():
    analysis = archcost.analyze("timm:tf_efficientnet_b1")
    assert analysis.input_text == "1x3x240x240 float32"
    assert any("pretrained_cfg" in note for note in analysis.notes)


def test_a_model_that_needs_values_is_built_again_with_them():
    analysis = archcost.analyze("torchvision:ssdlite320_mobilenet_v3_large")
    assert analysis.trace.device == "cpu"
    assert analysis.total.params == published("ssdlite320_mobilenet_v3_large")[0].params


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".nested.pt", ".parallel.pt"])
def test_weights_are_loaded_from_plain_tensors(folder, suffix):
    state = Net().state_dict()
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif "nested" in suffix:
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif "parallel" in suffix:
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    model = archcost.load("mymodels.py:Net", weights=path).model
    assert torch.equal(model.conv.weight, state["conv.weight"])


def test_weights_that_do_not_fit_or_hold_code_are_refused(folder):
    torch.save({"conv.weight": torch.zeros(1)}, folder / "small.pt")
    torch.save(Net(), folder / "pickled.pt")
    torch.save({0: torch.zeros(1)}, folder / "numbered.pt")
    (folder / "noise.pt").write_bytes(b"not a checkpoint")
    for name, message in [
        ("small.pt", "does not fit the model"),
        ("pickled.pt", "cannot be read as plain tensors"),
        ("noise.pt", "cannot be read as plain tensors"),
        ("numbered.pt", "holds no state dict"),
        ("absent.pt", "there is no file"),
    ]:
        with pytest.raises(SpecError, match=message):
            archcost.load("mymodels.py:Net", weights=folder / name)


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for spec in ("torchvision:lraspp_mobilenet_v3_large", "timm:mobilenetv3_small_050"):
        archcost.analyze(spec)


# The zoo: a few of each kind in the fast tier, all of them in the slow one.

FAST = [
    *("alexnet", "vgg16", "resnet50", "densenet121", "googlenet", "inception_v3", "mobilenet_v3_large"),
    *("shufflenet_v2_x1_0", "squeezenet1_0", "efficientnet_v2_s", "convnext_tiny", "regnet_y_1_6gf"),
    *("swin_t", "swin_v2_t", "vit_b_16", "vit_h_14", "maxvit_t", "mnasnet1_0", "wide_resnet50_2"),
    *("deeplabv3_resnet50", "lraspp_mobilenet_v3_large", "r3d_18", "mvit_v2_s", "s3d", "raft_small"),
    "quantized_resnet18",
]


def check(row):
    from archcost.analysis.zoo import count_entry

    counted = count_entry(row)
    where = f"{row.name} {row.weights}"
    if row.task != "quantization":
        assert counted.params == row.params, where
    if row.task != "detection":
        assert round(counted.macs / 1e9, 3) == row.gmacs, where


@pytest.mark.parametrize("name", FAST)
def test_parameters_and_macs_are_those_that_torchvision_publishes(name):
    check(published(name)[0])


FLOAT = ("classification", "segmentation", "video", "optical_flow")


@pytest.mark.slow
@pytest.mark.parametrize("row", zoo_entries(tasks=FLOAT), ids=lambda row: row.name)
def test_the_whole_zoo_is_as_torchvision_publishes_it(row):
    check(row)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "row", zoo_entries(tasks=FLOAT, every_weight=True), ids=lambda row: f"{row.name}-{row.weights}"
)
def test_every_set_of_weights_is_as_torchvision_publishes_it(row):
    check(row)


def test_the_zoo_is_whole():
    rows = zoo_entries()
    tasks = [row.task for row in rows]
    assert len(rows) == 121
    float_models = sum(task in FLOAT for task in tasks)
    assert (float_models, tasks.count("quantization"), tasks.count("detection")) == (97, 12, 12)


def tiered(tasks, also):
    """The entries of some tasks: those named in the slow tier, the others run by hand."""
    for row in zoo_entries(tasks=tasks):
        tier = pytest.mark.slow if row.name in also else pytest.mark.exhaustive
        yield pytest.param(row, marks=tier, id=row.name)


QUANTIZED = ("resnet18", "resnet50", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_large")


@pytest.mark.parametrize("row", tiered(("quantization",), [f"quantized_{name}" for name in QUANTIZED]))
def test_quantized_models_have_the_parameters_of_the_fused_float_model(row):
    from torchvision.models import quantization

    name = row.name.removeprefix("quantized_")
    arguments = {"aux_logits": name == "inception_v3"} if name in ("googlenet", "inception_v3") else {}
    if arguments:
        arguments["init_weights"] = False
    model = getattr(quantization, name)(weights=None, quantize=False, **arguments).eval()
    model.fuse_model(is_qat=False)
    fused = sum(p.numel() for p in model.parameters())
    loaded = build_torchvision(row)
    counted = archcost.analyze(loaded.model, input_size=row.input_size).total
    assert counted.params == fused
    assert round(counted.macs / 1e9, 3) == row.gmacs
    assert counted.param_bytes < 1.1 * fused  # int8 weights, float32 biases


DETECTION = ("fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")


@pytest.mark.parametrize("row", tiered(("detection",), (*DETECTION, "ssdlite320_mobilenet_v3_large")))
def test_detection_models_agree_with_an_independent_count_of_the_same_run(row):
    """Boxes depend on the weights, so the published MACs cannot be met; the same run can be counted twice."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = build_torchvision(row).model
    side = row.input_size[0][0][1]
    images = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    analysis = archcost.analyze(model, (images,))
    assert analysis.total.macs == counter.get_total_flops() / 2
    assert analysis.total.params == row.params
