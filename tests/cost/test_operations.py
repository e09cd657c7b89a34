"""Other operations than MACs follow from arithmetic, on every device."""

from functools import partial

import pytest
import torch
from torch import nn

import archcost
from helpers.calls import Call
from helpers.versions import grouped_on_cpu

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
@pytest.mark.parametrize("device", [None, pytest.param("cpu", marks=grouped_on_cpu)])
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
