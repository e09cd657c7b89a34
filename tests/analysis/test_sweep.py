"""A sweep counts what analyze counts at each point, says how it grows, and keeps what does not run."""

import pytest
import torch
import torchvision
from torch import nn

import archcost
from archcost import InputError
from archcost.analysis import scaling
from archcost.analysis import sweep as module
from archcost.report.document import Asked
from archcost.report.units import si_text


def conv():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()


@pytest.fixture(scope="module")
def resnet():
    return torchvision.models.resnet18(weights=None).eval()


def test_each_point_is_what_analyze_counts(resnet):
    found = archcost.sweep(resnet, [(1, 3, s, s) for s in (64, 96)], batch=[1, 4], progress=False)
    assert [(one.side, one.batch) for one in found] == [(64, 1), (96, 1), (64, 4), (96, 4)]
    for one in found:
        total = archcost.analyze(resnet, input_size=(one.batch, 3, one.side, one.side)).total
        for name in ("macs", "params", "peak_memory_bytes", "kept_for_backward_bytes", "activation_bytes"):
            assert getattr(one, name) == getattr(total, name)
        assert sum(share.macs for share in one.shares) == total.macs


def test_convolutions_grow_quadratically_with_the_side_and_linearly_with_the_batch():
    found = archcost.sweep(conv(), range(16, 65, 16), batch=[1, 2, 4], progress=False)
    words = {(one.measure, one.along): one.word for one in found.growth}
    assert words["macs", "side"] == words["peak_memory_bytes", "side"] == "quadratic"
    assert words["macs", "batch"] == "linear"
    assert words["params", "side"] == "constant"
    assert "At 64 px Sequential costs 16 times as much as at 16" in str(found).replace("16.00", "16")


def test_another_dtype_is_counted_as_the_converted_model_is():
    model = conv()
    found = archcost.sweep(model, (1, 3, 32, 32), dtype=["float32", torch.bfloat16], progress=False)
    half = archcost.analyze(conv().bfloat16(), input_size=(1, 3, 32, 32)).total
    assert found[1].dtype == "bfloat16"
    for name in ("macs", "param_bytes", "peak_memory_bytes", "kept_for_backward_bytes"):
        assert getattr(found[1], name) == getattr(half, name)
    assert next(model.parameters()).dtype == torch.float32


def test_a_size_that_the_model_refuses_is_a_row_with_its_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 28 * 28, 2))
    found = archcost.sweep(model, [(1, 3, 32, 32), (1, 3, 40, 40)], progress=False)
    assert found[0].reason is None
    assert "1x5184" in found[1].reason
    assert found[1].macs is None
    assert "At 1 of 2 points the model does not run" in str(found)
    assert "Weights" not in str(found)
    assert any(line.startswith("1x3x40x40") and "1x5184" in line for line in str(found).splitlines()[4:])
    with pytest.raises(InputError, match="Sequential runs at no point; first: "):
        archcost.sweep(model, (1, 3, 40, 40), progress=False)


def test_a_vision_transformer_of_a_spec_is_built_anew_for_its_size_and_attention_overtakes():
    found = archcost.sweep("torchvision:vit_b_16", [224, 896], progress=False)
    built = torchvision.models.vit_b_16(image_size=896)
    assert found[1].macs == archcost.analyze(built, input_size=(1, 3, 896, 896)).total.macs
    pairs = {(one.faster, one.slower) for one in found.overtaken}
    assert ("attention in MultiheadAttention", "matmul in MultiheadAttention") in pairs
    assert "built for it" in str(found)


def test_a_function_makes_the_model_for_each_size():
    found = archcost.sweep(
        lambda size: nn.Sequential(nn.Flatten(), nn.Linear(3 * size[-1] ** 2, 10)),
        [(1, 3, s, s) for s in (8, 16)],
        progress=False,
    )
    assert [one.macs for one in found] == [1920, 7680]


def test_tokens_are_swept_by_their_number():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(50, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.last(self.table(x))

    found = archcost.sweep(Tokens(), [16, 64], batch=[1, 2], progress=False)
    assert [one.macs for one in found] == [16 * 32, 64 * 32, 2 * 16 * 32, 2 * 64 * 32]


def test_measured_points_have_latency_and_throughput_and_agree():
    found = archcost.sweep(conv(), [(1, 3, 32, 32)], batch=[4], measure=True, seconds=0.5, progress=False)
    point = found[0]
    assert point.latency_ms > 0
    # On a busy machine the mean is far above the median, never far below.
    assert 0 < point.throughput < 2 * 4e3 / point.latency_ms
    assert found.device is not None


def test_every_format_shows_it(tmp_path):
    found = archcost.sweep(conv(), [16, 32], batch=[1, 2], progress=False)
    assert list(found.to_pandas()["macs"])[:2] == [found[0].macs, found[1].macs]
    assert len(found.to_pandas(by="growth")) == len(found.growth)
    assert found.to_dict()["growth"][0]["exponent"] == pytest.approx(2)
    for text in (found.to_markdown(), found.to_html(), str(found)):
        assert "times as much as at 16" in text
    found.save(tmp_path / "s.json")
    assert archcost.load_result(tmp_path / "s.json") == found
    found.to_html(tmp_path / "s.html")
    archcost.plot.sweep(found, path=tmp_path / "s.svg")


def test_the_page_says_what_costs_most_at_the_large_end_and_what_a_smaller_input_saves():
    found = archcost.sweep(conv(), [16, 32, 64], progress=False)
    page = found.document(Asked()).page()
    facts = {one.name: one.text for one in page.facts}
    assert facts["MACs"] == " → ".join(si_text(point.macs) for point in (found[0], found[-1]))
    assert page.costly[0].share == found[-1].shares[0].share
    assert [one.head for one in page.advice] == ["32 px", "16 px"]
    assert [one.share for one in page.advice] == [1 - found[at].macs / found[-1].macs for at in (1, 0)]
    assert "saves 75.0 % of the MACs" in page.advice[0].text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_size": [0, 8]}, "0 is no side or batch"),
        ({"batch": []}, "batch is empty"),
        ({"batch": [1, -2]}, "-2 is no side or batch"),
        ({"dtype": "float33"}, "'float33' is not a torch dtype"),
        ({"seconds": 0}, "seconds must be a number above 0"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(InputError, match=words):
        archcost.sweep(conv(), progress=False, **options)


def test_many_points_are_counted_only_if_asked_twice(monkeypatch):
    monkeypatch.setattr(module, "MOST_POINTS", 3)
    with pytest.raises(InputError, match=r"4 points take about \d+ minutes; give fewer, or yes=True"):
        archcost.sweep(conv(), [8, 9, 10, 11], progress=False)
    assert len(archcost.sweep(conv(), [8, 9, 10, 11], yes=True, progress=False)) == 4


def test_an_exponent_between_whole_numbers_is_told_at_both_ends():
    n = [100.0, 200.0, 400.0]
    found = scaling.growth_of("macs", "side", n, [x**2 + x**4 / 1e4 for x in n])
    assert found.word.startswith("as the power 3.3")
    assert found.at_low < found.exponent < found.at_high
    assert scaling.growth_of("macs", "side", [1.0], [1.0]) is None
