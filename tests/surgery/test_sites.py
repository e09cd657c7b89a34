"""Which convolutions may be replaced; each that may not says why, in words."""

import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import archcost
from archcost.errors import RewriteError
from archcost.nn import adapters
from archcost.nn.like import ConvLike
from archcost.rewriting.survey.survey import survey_of
from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.sites import sites


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
        (swap(Scaled(3, 4, 3)), "test_sites.Scaled is not one of torch.nn's convolutions, and may"),
        (swap(timm.layers.StdConv2d(3, 4, 3)), "timm.layers.std_conv.StdConv2d is not one of torch.nn's"),
        (swap(timm.layers.ScaledStdConv2d(3, 4, 3)), "ScaledStdConv2d is not one of"),
        (swap(timm.layers.CondConv2d(3, 4, 3)), "CondConv2d is not one of"),
        (swap(torchvision.ops.DeformConv2d(3, 4, 3)), "DeformConv2d is not one of"),
        (swap(Foreign()), "Foreign is not one of torch.nn's convolutions"),
        (swap(nn.LazyConv2d(4, 3)), "it is lazy and has no weights yet: run a forward pass"),
        (lambda m: parametrizations.weight_norm(m[0]), "its weight is parametrized: remove that with torch"),
        (lambda m: parametrizations.spectral_norm(m[0]), "its weight is parametrized"),
        (lambda m: parametrize.register_parametrization(m[0], "bias", nn.ReLU()), "its bias is parametrized"),
        (lambda m: nn.utils.weight_norm(m[0]), "recomputed at each call by weight_norm: remove that"),
        (lambda m: nn.utils.spectral_norm(m[0]), "recomputed at each call by spectral_norm"),
        (lambda m: prune.l1_unstructured(m[0], "weight", 0.5), "by pruning: remove that with torch.nn.utils"),
        (swap(torch.ao.nn.quantized.Conv2d(3, 4, 3)), "it is quantized: rewrite the float model"),
        (qconfig, "it is prepared for quantization: rewrite the float model"),
        (
            swap(torch.ao.nn.qat.Conv2d(3, 4, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig())),
            "it is prepared for quantization",
        ),
        (swap(torch.jit.script(nn.Conv2d(3, 4, 3))), "it is a ScriptModule: rewrite the model before"),
        (swap(ConvLike(nn.Conv2d(3, 4, 3))), "it has been replaced already: undo that first"),
        (override, "its forward was replaced on this object"),
        (compiled_alone, "it is compiled: compile after rewriting"),
        (extra, "it has more than weight and bias: scale"),
        (observer, "it has more than weight and bias: observer"),
        (subclassed, "its weight is a Wrapped, not an ordinary parameter"),
        (hold, "it is also held in order, which is not a registration"),
        (hold_its_forward, "it is also held in first"),
        (hook, "it has a forward hook, which would be lost: hooks='keep' takes it over"),
        (backward_hook, "it has a backward hook"),
        (tie, "its weight shares its memory with 2.weight"),
        (tie_a_view, "its weight shares its memory with 1.gate"),
        (tensor_hook, "its weight has gradient hooks, which would be lost"),
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
    assert "the model around it is a DataParallel, which keeps a list of the parameters" in reason(
        with_threads
    )
    scripted = nn.Sequential(torch.jit.script(pair()))
    assert "it is a ScriptModule" in reason(scripted)


@pytest.mark.slow
def test_what_is_compiled_stays():  # importing the compiler takes seconds
    assert "the model around it is compiled: rewrite model._orig_mod" in reason(torch.compile(pair()))
    model = pair()
    model[0].compile()
    assert "it is compiled: compile after rewriting" in reason(model)


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
    said = "its parameters are also read by the model itself"
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
    from archcost.surgery.checking import checked

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
    """Padded by two on the far side, in a way of its own."""

    def forward(self, x):
        x = torch.cat([x, x.new_zeros(*x.shape[:2], 2, x.shape[3])], 2)
        return super().forward(torch.cat([x, x.new_zeros(*x.shape[:3], 2)], 3))


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


class StaticSame(nn.Conv2d):
    """As efficientnet_pytorch has it: TensorFlow's "SAME" for the size given at construction."""

    def __init__(self, *args, image=20, **options):
        super().__init__(*args, **options)
        self.stride = [self.stride[0]] * 2
        (pair, _) = adapters.same_padding(self, (image, image))
        self.static_padding = nn.ZeroPad2d(pair * 2) if any(pair) else nn.Identity()

    def forward(self, x):
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (2 * self.dilation[0], 0)))


class PaddedTwice(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(F.pad(x, (1, 0)), (0, 2, 3, 0)))


class Commented(nn.Conv2d):
    def forward(self, x):
        if x.dim() != 4:
            raise ValueError("images only")
        return super().forward(x)


class Named(nn.Conv2d):
    """All that it computes is its parent's."""

    def __init__(self, i, o, name, **options):
        super().__init__(i, o, 3, **options)
        self.label = name


class NamedTransposed(nn.ConvTranspose2d):
    """And this one's."""


READ = [
    *(StaticSame(4, 6, k, stride=s, image=n) for k in (1, 3, 4) for s in (1, 2, 3) for n in (19, 20)),
    StaticSame(4, 8, 3, stride=2, groups=4, bias=False),
    *(Causal(4, 6, 3), Causal(4, 6, 3, dilation=3, stride=2)),
    *(PaddedTwice(4, 6, 3, padding=1, stride=2), Commented(4, 6, 3, padding="same")),
    *(Named(4, 6, "a", padding=1, padding_mode="reflect"), NamedTransposed(4, 6, 3, stride=2)),
]


@pytest.mark.parametrize("layer", READ, ids=lambda layer: f"{type(layer).__name__}-{layer.extra_repr()}")
def test_subclasses_that_pad_with_zeros_and_convolve_are_known_by_what_they_run(layer):
    model = nn.Sequential(layer, nn.ReLU()).eval()
    before = dict(vars(layer)), layer._parameters["weight"]
    (site,) = sites(model)
    assert site.reason is None
    assert dict(vars(layer)) == before[0]
    assert layer._parameters["weight"] is before[1]
    like = pickle.loads(pickle.dumps(ConvLike(layer)))
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[like.axes](layer.out_channels).eval()
    norm.running_mean.uniform_(-1, 1)
    for size in (15, 16, 17, 20):
        x = torch.rand(2, 4, *(size,) * like.axes)
        assert torch.equal(like.plain(x), layer(x))
        assert like.spec(x.shape[2:]).output_size == layer(x).shape[2:]
    with_norm = nn.Sequential(layer, norm, nn.ReLU()).eval()
    new = archcost.rewrite(with_norm, x, rules=["merge"], store=False, progress=False).model
    assert type(new[1]) is nn.Identity
    for size in (15, 16, 17, 20):
        x = torch.rand(2, 4, *(size,) * like.axes)
        assert torch.allclose(new(x), with_norm(x), atol=1e-5)
    assert all(type(part).__module__.startswith("torch.nn") for part in new.modules())


class Doing(nn.Conv2d):
    """Something else in the place of a convolution."""

    def __init__(self, does, **options):
        super().__init__(4, 4, 3, **options)
        self.does = does

    def forward(self, x):
        return self.does(self, x, super().forward)


def dynamic(layer, x, convolve):
    (rows, columns) = adapters.same_padding(layer, tuple(x.shape[2:]))
    return convolve(F.pad(x, (*columns, *rows)))


UNREAD = {
    "pads by ones": lambda layer, x, convolve: convolve(F.pad(x, (1, 1), value=1.0)),
    "crops": lambda layer, x, convolve: convolve(F.pad(x, (-1, 1))),
    "reflects": lambda layer, x, convolve: convolve(F.pad(x, (1, 1), mode="reflect")),
    "another weight": lambda layer, x, convolve: F.conv2d(x, layer.weight * 2, layer.bias),
    "another stride": lambda layer, x, convolve: F.conv2d(x, layer.weight, layer.bias, 2),
    "no bias": lambda layer, x, convolve: F.conv2d(x, layer.weight),
    "more behind": lambda layer, x, convolve: convolve(x).relu(),
    "in place behind": lambda layer, x, convolve: convolve(x).relu_(),
    "more before": lambda layer, x, convolve: convolve(x * 2),
    "in place": lambda layer, x, convolve: convolve(x.clamp_(0)),
    "twice": lambda layer, x, convolve: (convolve(x), convolve(x))[0],
    "two results": lambda layer, x, convolve: (convolve(x), x),
    "a look at values": lambda layer, x, convolve: convolve(x if x.sum() > 0 else F.pad(x, (1, 1))),
    "by mode": lambda layer, x, convolve: convolve(F.pad(x, (1, 1)) if layer.training else x),
    "by mode more": lambda layer, x, convolve: convolve(x).relu() if layer.training else convolve(x),
    "nothing": lambda layer, x, convolve: x,
}  # fmt: skip


@pytest.mark.parametrize("does", UNREAD.values(), ids=UNREAD)
def test_subclasses_that_do_more_or_not_always_stay(does):
    said = reason(nn.Sequential(Doing(does)))
    assert said is not None
    assert "adapters.register says how it pads" in said or "depends on the size" in said


def test_padding_that_depends_on_the_size_is_said():
    said = "its padding depends on the size of its input, which no module of torch.nn does with a stride"
    assert reason(nn.Sequential(Doing(dynamic, stride=2))) == said
    assert reason(nn.Sequential(Doing(dynamic))) is None
    late = Doing(lambda layer, x, convolve: convolve(F.pad(x, (1, 1)) if x.shape[-1] > 500 else x))
    model = nn.Sequential(late, nn.ReLU())
    assert reason(model) is None
    for size, words in ((499, None), (501, "its padding depends on the size of the input")):
        analysis = archcost.analyze(model, input_size=(1, 4, 9, size))
        (subject,) = survey_of(analysis)
        assert words == (subject.refusal and subject.refusal.reason)


def test_what_was_read_of_a_layer_is_read_anew_when_it_has_changed():
    model = nn.Sequential(StaticSame(4, 6, 3), nn.ReLU())
    assert ConvLike(model[0]).padding_rule(None, (9, 9)) == ((1, 1), (1, 1))
    model[0].static_padding = nn.ZeroPad2d((0, 1, 2, 3))
    assert ConvLike(model[0]).padding_rule(None, (9, 9)) == ((2, 3), (0, 1))
    model[0].static_padding = nn.ReLU()
    assert reason(model) is not None
