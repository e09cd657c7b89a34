"""What the table says in words: lower bounds, tied weights, several outputs, complex numbers."""

import csv
import io
import json
import re

import pytest
import torch
from torch import nn

import archcost
from archcost.analysis.reports.notes import never_ran, shared
from helpers.tables import body


class Custom(nn.Module):
    """A matrix product that no rule knows."""

    def forward(self, x):
        return torch.ops.archcost_test.mystery(x)


@pytest.fixture(scope="module")
def unknown():
    with torch.library._scoped_library("archcost_test", "DEF") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x.clone(), "CompositeExplicitAutograd")
        library.impl("mystery", lambda x: torch.empty_like(x), "Meta")
        model = nn.Sequential()
        model.add_module("conv", nn.Conv2d(3, 4, 3))
        model.add_module("odd", Custom())
        yield archcost.analyze(model, input_size=(1, 3, 8, 8))


def test_a_lower_bound_says_so_and_an_unknown_is_no_0(unknown):
    lines, total = body(unknown.to_text(columns=["macs"]))
    assert unknown.uncounted[0].macs_unknown
    assert lines[0].endswith(" 3.89 k")
    assert lines[1].split()[-1] == "?"
    assert total.split()[-2:] == [">=3.89", "k"]
    text = unknown.to_text()
    assert "Not counted: archcost_test.mystery" in text
    assert "in odd" in text
    operations = unknown.to_pandas(by="operations")
    assert operations["macs"].isna().sum() == 1
    assert "?" in unknown.to_markdown(by="operations")
    assert bool(unknown.to_pandas()["macs_lower_bound"].iloc[0])
    assert ">=3.89 k" in unknown.to_markdown()
    assert "&gt;=3.89 k" in unknown._repr_html_()
    assert json.loads(unknown.to_json())["uncounted"][0]["macs_unknown"] is True
    assert repr(unknown).count(">=") == 1


def test_footnotes_name_what_is_tied_shared_and_never_called():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4, bias=False)
            self.two = nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight
            self.again = self.one
            self.spare = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(3)])

        def forward(self, x):
            return self.two(self.again(self.one(x)))

    analysis = archcost.analyze(Odd(), input_size=(1, 4))
    text = analysis.to_text(full=True)
    assert "Tied: one.weight = two.weight (counted once)" in text
    assert shared(analysis) == ["one = again (weights counted once)"]
    assert never_ran(analysis) == ["spare"]
    assert "Never called: spare" in text


class Several(nn.Module):
    """Several outputs of its own and of its layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.rows = nn.Conv2d(3, 8, 3), nn.LSTM(36, 5, batch_first=True)

    def forward(self, x):
        y = self.stem(x)
        z, _ = self.rows(y.flatten(2))
        return {"map": y, "rows": z, "rest": (y.mean((2, 3)), y.sum(), *z.unbind(1))}


def test_several_outputs_are_several_shapes_in_every_format():
    analysis = archcost.analyze(Several(), input_size=(1, 3, 8, 8))
    own = ((1, 8, 6, 6), (1, 8, 5), (1, 8), (), *[(1, 5)] * 8)
    rows = ((1, 8, 5), (1, 1, 5), (1, 1, 5))
    assert analysis.total.output_shape == own
    assert (analysis["stem"].output_shape, analysis["rows"].output_shape) == ((1, 8, 6, 6), rows)
    frame = analysis.to_pandas().set_index("name")
    assert (frame.loc["", "output_shape"], frame.loc["rows", "output_shape"]) == (own, rows)
    record = json.loads(analysis.to_json())
    assert record["total"]["output_shape"] == [list(shape) for shape in own]
    assert [row["output_shape"] for row in record["modules"][1:]] == [[1, 8, 6, 6], [list(s) for s in rows]]
    # For people, equal ones together and the first three.
    text = "1x8x6x6, 1x8x5, 1x8 and 9 more"
    assert re.search(rf"Total +{text} ", analysis.to_text())
    assert re.search(r"rows \(LSTM\) +1x8x5, 2 of 1x1x5 ", analysis.to_text())
    assert f">{text}<" in analysis.to_html()
    assert f" {text} |" in analysis.to_markdown()
    cells = [row["output_shape"] for row in csv.DictReader(io.StringIO(analysis.to_csv()))]
    assert cells == ["1x8x6x6, 1x8x5, 1x8, scalar, 8 of 1x5", "1x8x6x6", "1x8x5, 2 of 1x1x5"]


def test_one_output_is_one_shape_however_it_is_wrapped():
    class Wrapped(nn.Linear):
        def forward(self, x):
            return {"out": [super().forward(x)], "none": None}

    assert archcost.analyze(Wrapped(3, 4), input_size=(2, 3)).total.output_shape == (2, 4)


class Spectral(nn.Module):
    """Real and complex products in one model."""

    def __init__(self):
        super().__init__()
        self.real = nn.Linear(8, 8)
        self.complex = nn.Linear(5, 6, dtype=torch.cfloat)

    def forward(self, x):
        return self.complex(torch.fft.rfft(self.real(x)))


def test_flops_of_real_and_complex_numbers_add_up_in_every_format():
    analysis = archcost.analyze(Spectral(), input_size=(2, 8))
    real, complex_ = 2 * 8 * 8, 2 * 5 * 6
    assert (analysis["real"].macs, analysis["real"].flops) == (real, 2 * real)
    assert (analysis["complex"].macs, analysis["complex"].flops) == (complex_, 8 * complex_)
    total = analysis.total
    assert (total.macs, total.flops) == (real + complex_, 2 * real + 8 * complex_)
    flops = {"": total.flops, "real": 2 * real, "complex": 8 * complex_}
    assert analysis.to_pandas().set_index("name")["flops"].to_dict() == flops
    assert analysis.to_pandas(by="operations")["flops"].sum() == total.flops
    record = json.loads(analysis.to_json(by="operations"))
    assert record["total"]["flops"] == sum(op["flops"] for op in record["operations"]) == total.flops
    assert analysis.flat(1)["complex/flops"] == 8 * complex_
    assert [int(row["flops"]) for row in csv.DictReader(io.StringIO(analysis.to_csv()))] == [*flops.values()]
    moved = total.input_bytes + total.weight_bytes + total.output_bytes
    assert total.arithmetic_intensity == (total.flops + total.other_ops) / moved
    says = "FLOPs are twice the MACs, 8 times where complex, other ops"
    assert says in analysis.to_text(full=True)
    assert says in analysis.to_html()
    assert "1 MAC is one multiply-accumulate, 2 FLOPs, 8 where complex" in analysis.to_text()
    both = json.loads(archcost.compare(Spectral(), nn.Linear(8, 8), input_size=(2, 8)).to_json())
    assert [both[side]["total"]["flops"] for side in "ab"] == [total.flops, 2 * real]


def test_where_nothing_is_complex_nothing_is_said_of_it(resnet):
    assert "FLOPs are twice the MACs, other ops are apart" in resnet.to_text(full=True)
    assert "complex" not in resnet.to_text()
