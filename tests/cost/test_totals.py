"""Bytes, depth, neurons and totals follow from arithmetic, and models agree with independent counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from helpers.calls import Call

X = torch.zeros(2, 4, 6, 6)
N = X.numel()


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
