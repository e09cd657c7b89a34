"""Other operations, bytes, depth and totals follow from arithmetic; what has no rule is named, never 0."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from archcost import ArchcostError
from archcost.cost import registry
from archcost.rules import Count
from helpers.calls import Call

X = torch.zeros(2, 4, 6, 6)
N = X.numel()

OTHER_OPS = {
    "relu": (nn.ReLU(), N),
    "relu in place": (nn.Sequential(nn.Identity(), Call(lambda x: (x + 1).relu_())), 2 * N),
    "gelu": (nn.GELU(), N),
    "prelu": (nn.PReLU(), N),
    "glu": (nn.GLU(dim=1), 2 * N // 2),
    "softmax: max, subtract, exp, add, divide": (nn.Softmax(1), 5 * N),
    "batch norm, inference: scale and shift": (nn.BatchNorm2d(4).eval(), 2 * N),
    "batch norm, training: 4 + 2 + 2": (nn.BatchNorm2d(4).train(), 8 * N + 1),  # and the batch counter
    "layer norm": (nn.LayerNorm([4, 6, 6]), 8 * N),
    "layer norm, not affine": (nn.LayerNorm([4, 6, 6], elementwise_affine=False), 6 * N),
    "group norm": (nn.GroupNorm(2, 4), 8 * N),
    "max pool 2x2: 3 comparisons": (nn.MaxPool2d(2), 3 * N // 4),
    "average pool 3x3: 8 additions, a division": (nn.AvgPool2d(3), N),
    "adaptive average to 1: the mean": (nn.AdaptiveAvgPool2d(1), N + 8),
    "adaptive average to 4: windows overlap": (nn.AdaptiveAvgPool2d(4), 2 * 4 * 8 * 8),
    "adaptive maximum to 3": (nn.AdaptiveMaxPool2d(3), N - 2 * 4 * 9),
    "nearest": (nn.Upsample(scale_factor=2), 0),
    "bilinear: 4 products, 3 sums": (nn.Upsample(scale_factor=2, mode="bilinear"), 7 * 4 * N),
    "bicubic: 16 products, 15 sums": (nn.Upsample(scale_factor=2, mode="bicubic"), 31 * 4 * N),
    "mean": (Call(lambda x: x.mean((2, 3))), N + 8),
    "sum": (Call(lambda x: x.sum()), N),
    "add": (Call(lambda x: x + x), N),
    "views move nothing": (Call(lambda x: x.view(2, 144).t().unsqueeze(0)), 0),
    "concatenation": (Call(lambda x: torch.cat([x, x])), 0),
    "padding": (nn.ZeroPad2d(1), 0),
    "dropout, inference": (nn.Dropout().eval(), 0),
    "pixel shuffle": (nn.PixelShuffle(2), 0),
    "bias of a convolution": (nn.Conv2d(4, 8, 3), 2 * 8 * 16),
    "convolution without bias": (nn.Conv2d(4, 8, 3, bias=False), 0),
    "real FFT of 6 points: 5/2 n ceil(log2 n)": (Call(lambda x: torch.fft.rfft(x)), 5 * N * 3 // 2),
}


@pytest.mark.parametrize("name", OTHER_OPS)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_other_operations_follow_from_arithmetic(name, device):
    module, expected = OTHER_OPS[name]
    analysis = archcost.analyze(module, X, device=device)
    assert analysis.uncounted == ()
    assert analysis.total.other_ops == expected


def test_embedding_bag_adds_what_it_gathers():
    bag = nn.EmbeddingBag(100, 16, mode="sum")
    assert archcost.analyze(bag, torch.zeros(2, 10, dtype=torch.long)).total.other_ops == 2 * 10 * 16


def test_bytes_of_a_convolution_are_its_tensors():
    layer = nn.Conv2d(4, 8, 3)
    total = archcost.analyze(layer, X).total
    assert total.input_bytes == 4 * N
    assert total.weight_bytes == 4 * (8 * 4 * 9 + 8)
    assert total.output_bytes == total.activation_bytes == total.peak_memory_bytes == 4 * 2 * 8 * 16
    moved = total.input_bytes + total.weight_bytes + total.output_bytes
    assert total.arithmetic_intensity == (total.flops + total.other_ops) / moved
    half = archcost.analyze(nn.Conv2d(4, 8, 3).half(), X.half()).total
    assert half.input_bytes + half.weight_bytes + half.output_bytes == moved // 2


def test_views_and_in_place_operations_allocate_nothing():
    total = archcost.analyze(Call(lambda x: x.view(2, -1).t()), X).total
    assert (total.activation_bytes, total.input_bytes, total.output_bytes) == (0, 0, 0)
    total = archcost.analyze(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)), X).total
    assert total.activation_bytes == 4 * N


def test_an_embedding_reads_the_rows_it_picks():
    total = archcost.analyze(nn.Embedding(1000, 16), torch.zeros(2, 5, dtype=torch.long)).total
    assert total.weight_bytes == total.output_bytes == 4 * 2 * 5 * 16


def test_an_expanded_tensor_is_read_once():
    total = archcost.analyze(Call(lambda x: x[:1].expand(50, 4, 6, 6) * 2.0), X).total
    assert total.input_bytes == 4 * N // 2


@pytest.fixture(scope="module")
def resnet():
    return archcost.analyze("torchvision:resnet50")


def test_resnet50_in_total(resnet):
    total = resnet.total
    assert total.params == total.trainable_params == 25_557_032
    assert total.macs == 4_089_184_256
    assert total.buffers == 53_120 + 53  # running statistics, batch counters
    assert (total.depth, total.nonlinearities) == (50, 49)
    assert total.peak_memory_bytes == pytest.approx(10.4e6, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "depth", "nonlinearities"),
    [("torchvision:vgg16", 16, 15), ("torchvision:alexnet", 8, 7), ("torchvision:resnet152", 152, 151)],
)
def test_depth_is_that_of_the_name(spec, depth, nonlinearities):
    total = archcost.analyze(spec).total
    assert (total.depth, total.nonlinearities) == (depth, nonlinearities)


def test_depth_counts_layers_and_not_products_of_activations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) @ self.b(x).T  # side by side: one layer deep

    assert archcost.analyze(Net(), torch.zeros(3, 8)).total.depth == 1


def test_a_weight_computed_from_parameters_is_a_layer():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    assert archcost.analyze(layer, X).total.depth == 1


def test_neurons_of_alexnet():
    # Krizhevsky's network has 650,000; torchvision's variant is a little narrower.
    assert archcost.analyze("torchvision:alexnet").total.neurons == (
        193_600 + 139_968 + 64_896 + 43_264 + 43_264 + 4096 + 4096 + 1000
    )


ADDITIVE = [
    *("params", "trainable_params", "buffers", "macs", "flops", "other_ops", "input_bytes", "output_bytes"),
    *("weight_bytes", "activation_bytes", "kept_for_backward_bytes", "neurons", "uncounted"),
]


@pytest.mark.parametrize("spec", ["torchvision:resnet50", "torchvision:swin_t", "torchvision:googlenet"])
def test_subtotals_add_up(spec):
    analysis = archcost.analyze(spec)
    own = {row.name: 0 for row in analysis.modules}
    for cost in analysis.operations:
        own[cost.module] += cost.macs
    for row in analysis.modules:
        children = [
            child for child in analysis.modules if child.name and child.name.rpartition(".")[0] == row.name
        ]
        assert row.macs == own[row.name] + sum(child.macs for child in children), row.name
        if children and own[row.name] == 0:
            assert row.params >= sum(child.params for child in children)
    top = [row for row in analysis.modules if row.level == 1]
    for column in ADDITIVE:
        total = sum(getattr(row, column) for row in top)
        direct = getattr(analysis.total, column)
        assert total <= direct
        if column in ("params", "macs", "neurons"):
            assert total == direct, column
    assert sum(c.macs for c in analysis.operations) == analysis.total.macs
    assert sum(c.other_ops for c in analysis.operations) == analysis.total.other_ops
    assert max(c.live_bytes for c in analysis.operations) == analysis.total.peak_memory_bytes


def test_the_peak_of_a_part_is_at_most_that_of_the_whole(resnet):
    for row in resnet.modules:
        assert row.peak_memory_bytes <= resnet.total.peak_memory_bytes
    assert resnet["layer1"].peak_memory_bytes == resnet.total.peak_memory_bytes
    assert resnet["layer4"].peak_memory_bytes < resnet.total.peak_memory_bytes


def test_tied_and_shared_weights_count_once_and_are_shown():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.embedding.weight
            self.twin = self.head

        def forward(self, x):
            return self.head(self.embedding(x)) + self.twin(self.embedding(x))

    model = Tied()
    analysis = archcost.analyze(model, torch.zeros(2, 3, dtype=torch.long))
    assert analysis.total.params == sum(p.numel() for p in model.parameters()) == 400
    assert analysis["embedding"].tied == ("embedding.weight = head.weight",)
    assert analysis["head"].params == 0
    assert analysis["head"].calls == 2
    assert analysis.total.macs == 2 * 6 * 8 * 50


def test_bare_parameters_belong_to_the_module_that_holds_them():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(6))
            self.frozen = nn.Parameter(torch.zeros(5), requires_grad=False)
            self.register_buffer("table", torch.zeros(7))

        def forward(self, x):
            return x * self.scale

    total = archcost.analyze(Bare(), torch.zeros(2, 6)).total
    assert (total.params, total.trainable_params, total.buffers) == (11, 6, 7)


# What has no rule


@torch.library.custom_op("archcost_rules::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.fixture
def rules():
    """The table of rules, put back afterwards."""
    with registry.table.temporarily():
        yield


class Mysterious(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Call(torch.ops.archcost_rules.mystery)

    def forward(self, x):
        return self.inner(self.inner(x)) + 1


def test_an_operator_without_a_rule_is_named_with_its_module():
    analysis = archcost.analyze(Mysterious(), X)
    (unknown,) = analysis.uncounted
    assert (unknown.op, unknown.module, unknown.times) == ("archcost_rules.mystery.default", "inner", 2)
    assert unknown.reason == (
        "no counting rule for this operator; add one with "
        '@archcost.rules.counting_rule("archcost_rules::mystery")'
    )
    row = next(c for c in analysis.operations if c.op.name == unknown.op)
    assert row.macs is None
    assert row.other_ops is None
    assert row.flops is None
    assert analysis.total.uncounted == analysis["inner"].uncounted == 2


@pytest.mark.parametrize(
    "name", ["archcost_rules::mystery", "archcost_rules.mystery", "archcost_rules.mystery.default"]
)
def test_a_rule_of_ones_own_is_one_decorated_function(rules, name):
    @archcost.rules.counting_rule(name, kind="matmul")
    def rule(op):
        return 7, op.outputs[0].numel

    analysis = archcost.analyze(Mysterious(), X)
    assert analysis.uncounted == ()
    assert (analysis["inner"].macs, analysis["inner"].other_ops) == (14, 2 * N)


def test_a_users_rule_replaces_ours(rules):
    @archcost.rules.counting_rule("aten.relu")
    def rule(op):
        return Count(1, 2, "activation")

    total = archcost.analyze(nn.ReLU(), X).total
    assert (total.macs, total.other_ops) == (1, 2)


def test_a_rule_that_fails_leaves_an_unknown(rules):
    @archcost.rules.counting_rule("aten.relu")
    def rule(op):
        raise KeyError("width")

    (unknown,) = archcost.analyze(nn.ReLU(), X).uncounted
    assert unknown.reason == "its rule failed: KeyError: 'width'"


def test_rules_of_other_packages_come_through_entry_points(tmp_path):
    """In a fresh interpreter, with a package beside archcost that announces one."""
    import subprocess
    import sys

    (tmp_path / "mypackage.py").write_text(
        "import archcost\n@archcost.rules.counting_rule('aten.relu')\ndef rule(op):\n    return 11, 0\n"
    )
    info = tmp_path / "mypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[archcost.rules]\nmine = mypackage\n")
    code = "import torch, archcost; print(archcost.analyze(torch.nn.ReLU(), torch.zeros(3)).total.macs)"
    out = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert out.strip() == "11"


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ((), "other", "name the operators"),
        ((3,), "other", "name the operators"),
        (("aten.relu",), "fast", "unknown kind 'fast'; the kinds are convolution"),
    ],
)
def test_a_rule_that_cannot_be_registered_says_why(rules, names, kind, message):
    with pytest.raises(ArchcostError, match=message):
        archcost.rules.counting_rule(*names, kind=kind)


def test_every_rule_names_an_operator_of_the_framework():
    """A misspelt rule would never apply; families with one rule for several versions may name absent ones."""
    import torchvision  # noqa: F401 - registers its operators

    known = set()
    for schema in torch._C._jit_get_all_schemas():
        known.add(schema.name.replace("::", ".").removesuffix("_"))
    names = {
        name
        for name in registry.table.entries
        if name.partition(".")[0] in ("aten", "quantized", "torchvision")
    }
    missing = {name for name in names if name not in known and name.removesuffix(".Scalar") not in known}
    assert len(missing) < len(names) // 8, sorted(missing)


TIMM = [
    *("resnetv2_50x1_bit", "convnextv2_atto", "efficientvit_b0", "mobilevitv2_050", "poolformer_s12"),
    *(
        "gmlp_s16_224",
        "mixer_s32_224",
        "deit_tiny_patch16_224",
        "beit_base_patch16_224",
        "xcit_nano_12_p16_224",
    ),
    *("coat_lite_tiny", "levit_128s", "hrnet_w18_small", "dla34", "regnetv_040", "nfnet_f0", "ghostnet_100"),
    *("tf_efficientnet_b0", "maxvit_tiny_rw_224", "volo_d1_224", "edgenext_xx_small", "focalnet_tiny_srf"),
    *("fastvit_t8", "repvgg_a0", "gcvit_xxtiny", "davit_tiny", "cait_xxs24_224"),
]


TIERS = [pytest.param(name, marks=pytest.mark.slow) for name in TIMM]
TIERS += [pytest.param("sequencer2d_s", marks=pytest.mark.exhaustive)]  # LSTMs, step by step: 20 s


@pytest.mark.parametrize("name", TIERS)
def test_timm_models_have_no_unknown_operator_and_agree_with_an_independent_count(name):
    import timm
    from torch.utils.flop_counter import FlopCounterMode

    model = timm.create_model(name, pretrained=False).eval()
    analysis = archcost.analyze(model)
    assert analysis.uncounted == ()
    assert analysis.total.params == sum(p.numel() for p in model.parameters())
    shape = tuple(int(n) for n in analysis.input_text.split()[0].split("x"))
    meta = model.to("meta")
    with FlopCounterMode(display=False) as counter:
        meta(torch.empty(shape, device="meta"))
    # A matrix product with a vector, and a recurrent layer, have no formula there.
    counted = {"aten.mv", "aten.dot", "aten.addmv"}
    ours = sum(c.macs for c in analysis.operations if c.op.base not in counted)
    assert ours == counter.get_total_flops() / 2


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_counts_the_same_fused_and_in_parts(batch):
    q = torch.zeros(batch, 4, 10, 8)
    fused = archcost.analyze(Call(lambda q: F.scaled_dot_product_attention(q, q, q)), q)
    parts = archcost.analyze(Call(lambda q: ((q * 8**-0.5) @ q.transpose(-2, -1)).softmax(-1) @ q), q)
    assert fused.total.macs == parts.total.macs
    assert len(fused.operations) == 1
    # Scaling the queries is cheaper than scaling the scores: apart from that the same.
    scores = batch * 4 * 10 * 10
    assert fused.total.other_ops - scores == parts.total.other_ops - q.numel()


MORE = {
    "addcmul broadcasts": (Call(lambda x: torch.addcmul(torch.zeros(1), x, x)), 2 * N),
    "sort along the first axis: n log2 n": (Call(lambda x: x.view(16, 18).sort(0)), N * 4),
    "top of the first axis": (Call(lambda x: x.view(16, 18).topk(2, 0)), N * 4),
    "median of everything": (Call(lambda x: x.view(-1).median()), N * 9),
    "median of an axis": (Call(lambda x: x.view(18, 16).median(1)), N * 4),
    "in-place addition": (Call(lambda x: (x + 1).add_(x)), 2 * N),
    "a list of additions in place": (Call(lambda x: torch._foreach_add_([x.clone(), x.clone()], 1.0)), 2 * N),
    "scatter with a sum": (
        Call(lambda x: torch.zeros(300).scatter(0, torch.arange(N), x.view(-1), reduce="add")), N,
    ),
    "search among 7 bounds": (Call(lambda x: torch.bucketize(x, torch.arange(7.0))), 3 * N),
    "cross product": (Call(lambda x: torch.linalg.cross(x[:, :3], x[:, 1:], dim=1)), 3 * 2 * 3 * 36),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_rarer_operators_follow_from_arithmetic_too(name):
    module, expected = MORE[name]
    analysis = archcost.analyze(module, X, device="cpu")
    assert analysis.uncounted == ()
    assert analysis.total.other_ops == expected


# Operators that have no rule and cannot contract, and those of losses, experts and spectra

I32 = partial(torch.tensor, dtype=torch.int32)
ONE_EACH = {
    "//": lambda x: x // 2,
    "// of two": lambda x: x // (x + 1.0).clone().fill_(2.0),
    "// in place": lambda x: x.clone().floor_divide_(2),
    "- the other way": lambda x: torch.rsub(x, torch.ones(1)),
    "absolute value in place": lambda x: x.clone().abs_(),
    "sign copied in place": lambda x: x.clone().copysign_(-1.0),
    "comparison in place": lambda x: x.clone().lt_(0.5),
    "xlogy in place": lambda x: x.clone().xlogy_(2.0),
    "a list of exponentials": lambda x: torch._foreach_exp([x])[0],
    "a list of exponentials in place": lambda x: torch._foreach_exp_([x.clone()]),
    "a list of quotients": lambda x: torch._foreach_div([x], [x])[0],
    "membership of one": lambda x: torch.isin(x, 0.5),
    "special function": lambda x: torch.special.log_ndtr(x),
}


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_what_cannot_contract_has_no_macs_and_one_operation_an_element(name, device):
    analysis = archcost.analyze(Call(ONE_EACH[name]), X, device=device)
    assert analysis.uncounted == ()
    arithmetic = [op for op in analysis.operations if op.kind not in ("view", "creation", "movement")]
    assert (analysis.total.macs, arithmetic[-1].other_ops) == (0, N)


def test_an_operator_of_ones_own_that_is_tagged_as_pointwise_needs_no_rule():
    with torch.library._scoped_library("archcost_tagged", "DEF") as library:
        library.define("doubled(Tensor x) -> Tensor", tags=torch.Tag.pointwise)
        library.impl("doubled", lambda x: x * 2, "CompositeExplicitAutograd")
        analysis = archcost.analyze(Call(torch.ops.archcost_tagged.doubled), X)
    assert (analysis.uncounted, analysis.total.macs, analysis.total.other_ops) == ((), 0, N)


COPIES = {
    "view": lambda x: torch.view_copy(x, (8, 36)),
    "squeeze": lambda x: torch.squeeze_copy(x),
    "diagonal": lambda x: torch.diagonal_copy(x, 0, 2, 3),
    "split": lambda x: torch.split_copy(x, 2, 1),
    "sparse": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_views_and_other_layouts_move_and_compute_nothing(name):
    analysis = archcost.analyze(Call(COPIES[name]), X, device="cpu")
    assert (analysis.uncounted, analysis.total.macs, analysis.total.other_ops) == ((), 0, 0)


P, T = torch.rand(4, 6).clamp(0.1, 0.9), torch.rand(4, 6)
CLASSES = torch.tensor([0, 1, 2, 5])
LOSSES = {
    # Operations an element of 24, then 23 sums of 24 taken as 24, and a division.
    "absolute": (nn.L1Loss(), (P, T), 2 * 24 + 25),
    "squared": (nn.MSELoss(), (P, T), 2 * 24 + 25),
    "squared, summed": (nn.MSELoss(reduction="sum"), (P, T), 2 * 24 + 24),
    "squared, each": (nn.MSELoss(reduction="none"), (P, T), 2 * 24),
    "huber": (nn.HuberLoss(), (P, T), 5 * 24 + 25),
    "smooth": (nn.SmoothL1Loss(), (P, T), 6 * 24 + 25),
    "soft margin": (nn.SoftMarginLoss(), (P, T), 4 * 24 + 25),
    "binary": (nn.BCELoss(), (P, T), 8 * 24 + 25),
    "binary, weighted": (nn.BCELoss(weight=T), (P, T), 9 * 24 + 25),
    "binary, of logits": (nn.BCEWithLogitsLoss(), (P, T), 4 * 24 + 25),
    "cross entropy: log softmax, sign, mean": (nn.CrossEntropyLoss(), (P, CLASSES), 5 * 24 + 4 + 5),
    "likelihood, weighted": (nn.NLLLoss(weight=torch.ones(6)), (P, CLASSES), 3 * 4 + 5),
    "likelihood of pixels": (nn.NLLLoss(), (torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4).long()), 32 + 33),
    "margin of classes": (nn.MultiMarginLoss(), (P, CLASSES), 4 * 24 + 4 + 5),
    "divergence": (nn.KLDivLoss(), (P, T), 3 * 24 + 25),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_losses_follow_from_their_formulas(name, device):
    loss, inputs, expected = LOSSES[name]
    analysis = archcost.analyze(loss, inputs, device=device)
    assert analysis.uncounted == ()
    assert (analysis.total.macs, analysis.total.other_ops) == (0, expected)


def test_connectionist_temporal_classification():
    scores, labels = torch.rand(10, 2, 5).log_softmax(-1), torch.ones(2, 3, dtype=torch.long)
    analysis = archcost.analyze(nn.CTCLoss(reduction="none"), (scores, labels, (10, 10), (3, 3)))
    assert analysis.uncounted == ()
    assert (analysis.total.macs, analysis.total.other_ops) == (0, 12 * 10 * 2 * 7)
    ragged = archcost.analyze(nn.CTCLoss(reduction="none"), (scores, labels.view(-1), (10, 10), (3, 3)))
    assert [(u.op, u.macs_unknown) for u in ragged.uncounted] == [("aten._ctc_loss.default", False)]


def test_a_loss_whose_work_depends_on_values_has_unknown_operations_and_no_macs():
    analysis = archcost.analyze(nn.MultiLabelMarginLoss(), (P, torch.ones(4, 6, dtype=torch.long)))
    assert [u.macs_unknown for u in analysis.uncounted] == [False]
    assert "depends on the targets" in analysis.uncounted[0].reason


GROUPED = {
    "rows": ((8, 16), (2, 16, 16), [4, 8], 8 * 16 * 16),
    "columns": ((2, 8, 16), (16, 8), [4, 8], 8 * 16 * 8),
    "what is summed": ((4, 8), (8, 12), [4, 8], 4 * 8 * 12),
    "groups of their own": ((2, 8, 16), (2, 16, 12), None, 2 * 8 * 16 * 12),
}


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_grouped_products_use_all_rows_and_say_so(name, device):
    a, b, ends, macs = GROUPED[name]
    inputs = (torch.rand(a), torch.rand(b)) + (() if ends is None else (I32(ends),))
    module = Call(lambda a, b, offs=None: torch._grouped_mm(a, b, offs=offs))
    analysis = archcost.analyze(module, inputs, device=device)
    assert (analysis.total.macs, analysis.total.other_ops, analysis.uncounted) == (macs, 0, ())
    note = "the last offset is assumed to be the number of rows"
    assert any(note in text for text in analysis.notes) is (ends is not None)
    assert (note in analysis.to_text()) is (ends is not None)
    # As a loop over the groups has it.
    if name == "rows":
        loop = Call(lambda a, b: torch.cat([x @ w for x, w in zip(a.split(4), b, strict=True)]))
        assert archcost.analyze(loop, inputs[:2]).total.macs == macs


def test_a_spectrum_there_and_back_is_counted():
    def there_and_back(x):
        window = torch.ones(64, device=x.device)
        return torch.istft(torch.stft(x, 64, 16, window=window, return_complex=True), 64, 16, window=window)

    analysis = archcost.analyze(Call(there_and_back), torch.rand(2, 512), device="cpu")
    frames = 2 * (512 // 16 + 1)
    assert (analysis.uncounted, analysis.total.macs) == ((), 0)
    counts = [(op.op.base, op.other_ops) for op in analysis.operations if "fft" in op.op.base]
    assert counts == [("aten._fft_r2c", frames * 64 * 15), ("aten._fft_c2r", frames * 64 * 15)]
    adds = [op.other_ops for op in analysis.operations if op.op.base == "aten.unfold_backward"]
    assert adds == [frames * 64, frames // 2 * 64]  # of frames into the signal, and of windows


@pytest.mark.parametrize(("a", "b", "left"), [((4, 4), (4, 7), True), ((2, 4, 4), (2, 3, 4), False)])
def test_a_triangular_system_is_solved_by_substitution(a, b, left):
    def solve(a, b):
        return torch.linalg.solve_triangular(a, b, upper=False, left=left)

    total = archcost.analyze(Call(solve), (torch.rand(a).tril() + torch.eye(4), torch.rand(b))).total
    right_sides = torch.Size(b).numel() // 4
    assert (total.macs, total.other_ops) == (right_sides * (1 + 2 + 3), right_sides * 4)


def test_functions_of_whole_matrices_stay_unknown():
    """They multiply inside, and their shapes are those of pointwise operators."""
    square = torch.eye(4) + 0.1
    for function in (torch.linalg.matrix_exp, torch.linalg.inv, torch.linalg.cholesky, torch.linalg.det):
        analysis = archcost.analyze(Call(function), square, device="cpu")
        assert [u.macs_unknown for u in analysis.uncounted] == [True], function


def test_no_operator_of_the_framework_that_contracts_passes_for_pointwise():
    """What shapes and schema let through, read through once: none of these is a sum of products."""
    from archcost.cost.rules.fallback import contracts
    from archcost.trace.schema import find_overload

    through = set()
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
        overload = find_overload(name)
        if name.startswith("aten.") and overload is not None and not contracts(overload):
            through.add(name.split(".")[1])
    assert not through & {"mm", "bmm", "matmul", "inner", "tensordot", "dot", "vdot", "mv", "addmm", "conv2d"}
    assert not {name for name in through if "linalg" in name or "attention" in name or "_mm" in name}
    assert {"floor_divide", "rsub"} <= through


def test_depth_leaves_out_what_happens_to_weights_alone():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(8, 2)), nn.Parameter(torch.zeros(2, 8))
            self.gate = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x @ ((self.a @ self.b) * self.gate.sigmoid())

    total = archcost.analyze(LowRank(), torch.zeros(5, 8)).total
    assert (total.depth, total.nonlinearities, total.neurons) == (1, 0, 40)


def test_what_a_product_is_added_to_makes_it_no_layer():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, 4, 4))

        def forward(self, q):
            return torch.baddbmm(self.bias, q, q.transpose(1, 2))

    assert archcost.analyze(Biased(), torch.zeros(2, 4, 8)).total.depth == 0


def test_a_bag_of_embeddings_reads_all_rows_it_adds():
    bag = nn.EmbeddingBag(1000, 16, mode="sum")
    total = archcost.analyze(bag, torch.zeros(2, 100, dtype=torch.long)).total
    assert total.weight_bytes == 4 * 200 * 16


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "its rule failed: TypeError"),
        (7, "its rule failed: TypeError"),
        ((None, 5), "its rule returned None without a reason"),
    ],
)
def test_a_rule_that_does_not_answer_leaves_an_unknown(rules, answer, reason):
    archcost.rules.counting_rule("aten.relu")(lambda op: answer)
    analysis = archcost.analyze(nn.ReLU(), X)
    (unknown,) = analysis.uncounted
    assert unknown.reason.startswith(reason)
    assert analysis.total.arithmetic_intensity is None
    assert "macs" not in analysis.flat()


def test_a_rule_for_one_overload_holds_for_its_in_place_form(rules):
    archcost.rules.counting_rule("aten.add.Tensor")(lambda op: (3, 0))
    assert archcost.analyze(Call(lambda x: x.clone().add_(x) + 1.0), X).total.macs == 6


def test_an_operator_that_returns_a_number_is_unknown_too(rules):
    torch.library.custom_op("archcost_rules::energy", lambda x: float(x.sum()), mutates_args=(),
                            schema="(Tensor x) -> float")  # fmt: skip
    analysis = archcost.analyze(Call(lambda x: x * torch.ops.archcost_rules.energy(x)), X, device="cpu")
    assert [u.op for u in analysis.uncounted] == ["archcost_rules.energy.default"]


def test_every_counted_kind_is_a_known_kind():
    analysis = archcost.analyze("torchvision:googlenet")
    kinds = {c.kind for c in analysis.operations}
    assert kinds <= set(registry.KINDS)
    assert {"convolution", "norm", "activation", "pool", "movement"} <= kinds
    assert all(a.op.index + 1 == b.op.index for a, b in itertools.pairwise(analysis.operations))
