"""Which convolutions may be replaced; each that may not says why, in words."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import archcost
from archcost.errors import RewriteError
from archcost.rewriting.surgery import adapters
from archcost.rewriting.surgery.elsewhere import used_elsewhere
from archcost.rewriting.surgery.like import ConvLike
from archcost.rewriting.surgery.sites import sites


def pair():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))


def reason(model, place=0, **options):
    return sites(model, **options)[place].reason


def test_plain_layers_of_every_kind_may_be_replaced():
    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    model = nn.Sequential(*(kind(2, 2, 3) for kind in kinds), nn.Linear(2, 2), nn.MaxPool2d(2))
    found = sites(model)
    assert [type(site.module) for site in found] == kinds
    assert all(site.reason is None for site in found)
    assert [str(site) for site in found][:2] == ["0 (Conv1d)", "1 (Conv2d)"]


def test_wrappers_of_libraries_hold_plain_ones():
    found = sites(torchvision.ops.Conv2dNormActivation(3, 4)), sites(timm.layers.ConvNormAct(3, 4))
    assert [[site.reason for site in one] for one in found] == [[None], [None]]


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = 3, 4, (3, 3)
        self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))


def override(model):
    model[0].forward = lambda x: x


def qconfig(model):
    model[0].qconfig = torch.ao.quantization.get_default_qconfig()


def compiled_alone(model):
    model[0]._compiled_call_impl = model[0]._call_impl  # what .compile() sets, without importing the compiler


def extra(model):
    model[0].register_buffer("scale", torch.ones(1))


def observer(model):
    model[0].observer = nn.Identity()


def hold(model):
    model.order = [("one", model[0])]


def hold_its_forward(model):
    model.first = model[0].forward


def hook(model):
    model[0].register_forward_hook(lambda *_: None)


def backward_hook(model):
    model[0].register_full_backward_hook(lambda *_: None)


def tie(model):
    model.append(nn.Conv2d(3, 4, 3)).get_submodule("2").weight = model[0].weight


def tie_a_view(model):
    model[1].gate = nn.Parameter(model[0].weight.detach()[0])


def tensor_hook(model):
    model[0].weight.register_hook(lambda grad: grad)


def swap(new):
    return lambda model: model.__setitem__(0, new)


def subclassed(model):
    class Wrapped(torch.Tensor):
        pass

    model[0].weight = nn.Parameter(torch.zeros(4, 3, 3, 3).as_subclass(Wrapped))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (swap(Scaled(3, 4, 3)), "test_surgery_sites.Scaled is not one of torch.nn's convolutions, and may"),
        (swap(timm.layers.StdConv2d(3, 4, 3)), "timm.layers.std_conv.StdConv2d is not one of torch.nn's"),
        (swap(timm.layers.ScaledStdConv2d(3, 4, 3)), "ScaledStdConv2d is not one of"),
        (swap(timm.layers.CondConv2d(3, 4, 3)), "CondConv2d is not one of"),
        (swap(torchvision.ops.DeformConv2d(3, 4, 3)), "DeformConv2d is not one of"),
        (swap(Foreign()), "Foreign is not one of torch.nn's convolutions"),
        (swap(nn.LazyConv2d(4, 3)), "it is lazy and has no weights yet: run one forward pass"),
        (lambda m: parametrizations.weight_norm(m[0]), "its weight is parametrized: bake it in with torch"),
        (lambda m: parametrizations.spectral_norm(m[0]), "its weight is parametrized"),
        (lambda m: parametrize.register_parametrization(m[0], "bias", nn.ReLU()), "its bias is parametrized"),
        (lambda m: nn.utils.weight_norm(m[0]), "made anew at each call by weight_norm: bake it in"),
        (lambda m: nn.utils.spectral_norm(m[0]), "made anew at each call by spectral_norm"),
        (lambda m: prune.l1_unstructured(m[0], "weight", 0.5), "by pruning: bake it in with torch.nn.utils"),
        (swap(torch.ao.nn.quantized.Conv2d(3, 4, 3)), "it is quantized: rewrite the float model"),
        (qconfig, "it is prepared for quantization: rewrite the float model"),
        (
            swap(torch.ao.nn.qat.Conv2d(3, 4, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig())),
            "it is prepared for quantization",
        ),
        (swap(torch.jit.script(nn.Conv2d(3, 4, 3))), "it is a ScriptModule, whose parts are compiled"),
        (swap(ConvLike(nn.Conv2d(3, 4, 3))), "it has been replaced already: undo that first"),
        (override, "its forward was replaced on this very object"),
        (compiled_alone, "it is compiled on its own: compile after rewriting"),
        (extra, "it holds more than weight and bias: scale"),
        (observer, "it holds more than weight and bias: observer"),
        (subclassed, "its weight is a Wrapped, not an ordinary parameter"),
        (hold, "it is also held in order, which is no place where modules are registered"),
        (hold_its_forward, "it is also held in first"),
        (hook, "it has a forward hook of its own, that would be lost: hooks='keep' takes them over"),
        (backward_hook, "it has a backward hook of its own"),
        (tie, "its weight shares its memory with 2.weight"),
        (tie_a_view, "its weight shares its memory with 1.gate"),
        (tensor_hook, "its weight has gradient hooks, that would be lost"),
    ],
)
def test_a_refusal_says_why(spoil, words):
    model = pair()
    spoil(model)
    found = sites(model)
    assert words in found[0].reason
    others = [site.reason for site in found[1:] if site.reason]
    assert not others or "shares its memory" in words or "gate" in others[0]


def test_what_lies_in_a_wrapper_stays():
    with_threads = nn.DataParallel(pair())
    assert "the model around it is a DataParallel, which keeps its own account" in reason(with_threads)
    scripted = nn.Sequential(torch.jit.script(pair()))
    assert "it is a ScriptModule" in reason(scripted)


@pytest.mark.slow
def test_what_is_compiled_stays():  # importing the compiler takes seconds
    assert "the model around it is compiled: rewrite model._orig_mod" in reason(torch.compile(pair()))
    model = pair()
    model[0].compile()
    assert "it is compiled on its own" in reason(model)


def test_a_distributed_wrapper_keeps_what_it_holds(tmp_path):
    from torch.nn.parallel import DistributedDataParallel

    file = (tmp_path / "meeting").as_uri()
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    try:
        assert "is a DistributedDataParallel, which keeps" in reason(DistributedDataParallel(pair()))
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_that_is_one_convolution_has_no_place():
    assert reason(nn.Conv2d(3, 4, 3)) == "it is the whole model: wrap it, torch.nn.Sequential(model)"


def test_who_keeps_hooks_and_parameters_may_do_more():
    for spoil in (hook, backward_hook):
        model = pair()
        spoil(model)
        assert reason(model, hooks="keep") is None
    for spoil in (tie, tensor_hook):
        model = pair()
        spoil(model)
        assert reason(model, keeps_parameters=True) is None


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.used, self.lone = (nn.Conv2d(3, 3, 3) for _ in range(3))
        self.alias = self.conv

    def forward(self, x):
        x = self.alias(self.conv(x))
        return nn.functional.conv2d(x, self.used.weight.flip(2)) + self.lone(x).mean()


def test_weights_used_elsewhere_show_in_a_trace():
    model = Functional()
    trace = archcost.analyze(model, torch.zeros(1, 3, 16, 16)).trace
    assert used_elsewhere(trace) == {"used": ("",)}
    found = {site.name: site.reason for site in sites(model, trace=trace)}
    said = "its parameters are read by the model itself too"
    assert found == {"conv": None, "used": said, "lone": None}
    assert sites(model, trace=trace, keeps_parameters=True)[1].reason is None


def test_no_weight_of_a_plain_model_is_used_elsewhere():
    model = torchvision.models.resnet18(weights=None)
    assert used_elsewhere(archcost.analyze(model, torch.zeros(1, 3, 64, 64)).trace) == {}


def test_standardised_weights_are_refused_throughout():
    model = timm.create_model("resnetv2_50x1_bit", pretrained=False)
    found = sites(model)
    assert len(found) > 50
    kept = [site for site in found if type(site.module) is not nn.Conv2d]
    assert len(kept) > 50
    assert all("StdConv2d is not one of torch.nn's" in site.reason for site in kept)


def test_same_padding_is_that_of_timm():
    from archcost.rewriting.surgery.checking import checked

    for size, kernel, stride, dilation in (
        (11, 3, 2, 1),
        (12, 5, 2, 1),
        (9, 3, 3, 2),
        (7, 1, 2, 1),
        (8, 4, 1, 1),
    ):
        layer = timm.layers.Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation)
        like = ConvLike(layer)
        like.forward = like.plain
        x = torch.randn(2, 3, size, size + 1)
        check = checked(layer, like, x, tolerance=0)
        assert check.ok, check.problem
        assert like.spec(x.shape[2:]).output_size == layer(x).shape[2:]


class Doubled(nn.Conv2d):
    """Padded by two on the far side."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 2, 0, 2)))


def two_behind(layer, size):
    return ((0, 2),) * len(size)


def test_an_adapter_opens_a_type(monkeypatch):
    monkeypatch.setattr(adapters, "_adapters", dict(adapters._adapters))
    assert "adapters.register says how it pads" in reason(nn.Sequential(Doubled(3, 4, 3)))
    adapters.register(Doubled, two_behind)
    assert reason(nn.Sequential(Doubled(3, 4, 3))) is None
    layer, x = Doubled(3, 4, 3), torch.randn(1, 3, 6, 6)
    assert torch.equal(ConvLike(layer).plain(x), layer(x))


def test_an_adapter_can_be_pickled():
    with pytest.raises(
        RewriteError, match="give a function defined in a module, so that models can be pickled"
    ):
        adapters.register(Doubled, lambda layer, size: ((0, 2),) * 2)
