"""An Analysis as a table, pandas, markdown, CSV, JSON, HTML and a flat dict."""

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
import torchvision
from rich.console import Console
from torch import nn

import archcost
from archcost.analysis.reports.columns import MODULE_COLUMNS, OPERATION_COLUMNS
from archcost.analysis.reports.notes import never_ran, shared
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.reports.tree import span, tree
from archcost.errors import SpecError
from archcost.report.document import Asked
from archcost.report.terminal import show
from archcost.report.text import csv_cell, fit, markdown_cell, visible, width_of
from archcost.report.units import bytes_text, percent_text, ratio_text, si_text


def draw(result, console):
    """What `table` prints, on a console of the test's own."""
    show(result.document(Asked()), Asked(), console=console)


SIZES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


@pytest.fixture(scope="module")
def resnet():
    return archcost.analyze(torchvision.models.resnet18(weights=None), input_size=(1, 3, 224, 224))


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.conv(x))


class Stack(nn.Module):
    def __init__(self, blocks=6):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))

    def forward(self, x):
        return self.blocks(self.stem(x)) * self.scale


@pytest.fixture(scope="module")
def stack():
    return archcost.analyze(Stack(), input_size=(1, 3, 10, 10))


def number(text):
    """What a printed number means."""
    text = text.replace(",", "").removesuffix("B")
    value, _, prefix = text.partition(" ")
    return float(value) * SIZES[prefix]


def body(text):
    """The lines of the table between its rules, and the total."""
    lines = text.splitlines()
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─")]
    return lines[rules[0] + 1 : rules[1]], lines[rules[1] + 1]


def by_column(line, name="params"):
    """The last cell of a line: tests print one column."""
    return number(re.split(r"\s{2,}", line.rstrip())[-1])


def level(line):
    return len(re.match(r"(?:[│├└ ][─ ] )*", line)[0]) // 3


@pytest.mark.parametrize("column", ["params", "macs", "other_ops", "activation_bytes"])
@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_the_printed_numbers_add_up_at_every_level(resnet, stack, column, depth):
    for analysis in (resnet, stack):
        lines, total = body(analysis.to_text(depth=depth, columns=[column]))
        levels = [level(line) for line in lines]
        values = [by_column(line) for line in lines]
        sums = [sum(v for v, at in zip(values, levels, strict=True) if at == 0)]
        wholes = [by_column(total)]
        for i, at in enumerate(levels):
            inside = []
            for j in range(i + 1, len(levels)):
                if levels[j] <= at:
                    break
                inside += [values[j]] if levels[j] == at + 1 else []
            if inside:
                sums.append(sum(inside))
                wholes.append(values[i])
        # Three digits are printed, so that many survive an addition.
        assert sums == pytest.approx(wholes, rel=0.01)


def test_the_rows_of_the_tree_add_up_exactly(resnet, stack):
    added = [c for c in MODULE_COLUMNS if c.additive and c.dtype in ("int64", "Int64")]
    for analysis in (resnet, stack):
        lines = tree(Ledger(analysis), None, added)
        leaves = [
            line
            for line, after in zip(lines, [*lines[1:], None], strict=True)
            if after is None or (len(after.guides) <= len(line.guides) and not _opens(line, after))
        ]
        for column in added:
            assert sum(column.get(line.row) for line in leaves) == getattr(analysis.total, column.name)


def _opens(line, after):
    return line.row.kind == "module" and after.row.module.name.startswith(line.row.module.name + ".")


def test_repeated_blocks_are_folded_into_their_sum(stack):
    text = stack.to_text(columns=["params", "macs"])
    assert "4 more like blocks.1" in text or "5 more like blocks.0" in text
    lines, _ = body(text)
    folded = next(line for line in lines if "more like" in line)
    many = int(re.search(r"(\d+) more", folded)[1])
    assert re.search(r"\d-5  ", folded)
    assert by_column(folded) == pytest.approx(many * stack["blocks.5"].macs, rel=0.005)
    row = next(line.row for line in tree(Ledger(stack), 3, MODULE_COLUMNS) if line.row.kind == "fold")
    assert row.module.params == many * stack["blocks.5"].params
    assert row.module.peak_memory_bytes == stack["blocks.5"].peak_memory_bytes
    assert "blocks.3" not in text


def test_blocks_that_cost_differently_are_not_folded():
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.ReLU()) for k in (1, 3, 5)))
    assert "more like" not in archcost.analyze(model, input_size=(1, 4, 8, 8)).to_text()


def test_one_short_line_is_not_hidden_behind_another():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    lines, _ = body(archcost.analyze(model, input_size=(1, 4)).to_text())
    assert [line.split()[0] for line in lines] == ["0", "1"]


def test_own_operations_and_parameters_have_a_row(stack):
    lines, _ = body(stack.to_text(columns=["params", "other_ops"]))
    assert any("(own operations)" in line and line.startswith("│  ") for line in lines)
    last = lines[-1]
    assert last.startswith("(own operations and parameters)")
    assert re.split(r"\s{2,}", last)[1] == "1"


def test_an_own_row_appears_only_for_a_column_that_is_shown(stack):
    assert "(own" not in stack.to_text(columns=["macs"])
    assert "(own" in stack.to_text(columns=["other_ops"])


def test_a_model_that_is_one_layer_has_one_row():
    lines, total = body(archcost.analyze(nn.Conv2d(3, 8, 3), input_size=(1, 3, 8, 8)).to_text())
    assert len(lines) == 1
    assert lines[0].startswith("Conv2d")
    assert total.startswith("Total")


def test_depth_0_is_the_total_alone(resnet):
    text = resnet.to_text(depth=0)
    assert "conv1" not in text
    assert "11,689,512" in text


def test_the_header_names_model_and_input(resnet):
    first = resnet.to_text().splitlines()[0]
    assert first == "ResNet  input 1x3x224x224 float32, in training mode"
    run = archcost.analyze(nn.ReLU(), input_size=(2, 3), device="cpu")
    assert "run on cpu" in run.to_text().splitlines()[0]


class Draws(nn.Module):
    """Dropout by function, as its mode says."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


BY_BATCH, DRAWS = "batch norms use the statistics of the batch", "dropout is active"


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.BatchNorm2d(3), BY_BATCH),
        (nn.InstanceNorm2d(3, track_running_stats=True), BY_BATCH),
        (nn.SyncBatchNorm(3), BY_BATCH),
        (nn.Dropout(0.5), DRAWS),
        (nn.Dropout2d(0.5), DRAWS),
        (nn.AlphaDropout(0.5), DRAWS),
        (Draws(), DRAWS),
        (nn.RReLU(), "RReLU draws random slopes"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)), f"{BY_BATCH} and {DRAWS}"),
        # Nothing of these depends on the mode.
        (nn.Conv2d(3, 3, 1), None),
        (nn.Dropout(0.0), None),
        (nn.LayerNorm(4), None),
        (nn.GroupNorm(3, 3), None),
        (nn.InstanceNorm2d(3), None),
        (nn.BatchNorm2d(3, track_running_stats=False), None),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_first_line_says_training_mode_where_that_makes_a_difference(model, what, training):
    found = archcost.analyze(model.train(training), input_size=(2, 3, 4, 4))
    first = found.to_text().splitlines()[0]
    assert found.training == (training and what is not None)
    assert first.endswith("float32, in training mode" if found.training else "float32")
    note = f"the model is in training mode, where {what}; for inference call model.eval() first"
    assert found.notes == ((note,) if found.training else ())
    assert json.loads(found.to_json())["notes"] == list(found.notes)


def test_a_part_in_training_mode_is_enough():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    model[1].train()
    assert archcost.analyze(model, input_size=(2, 3, 4, 4)).training
    model[1].eval()
    model[0].train()
    assert not archcost.analyze(model, input_size=(2, 3, 4, 4)).training


def test_batch_statistics_that_eval_mode_uses_as_well_are_no_matter_of_mode():
    class Always(nn.BatchNorm2d):
        def forward(self, x):
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)

    assert archcost.analyze(Always(3).eval(), input_size=(2, 3, 4, 4)).training is False


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(resnet, width):
    for options in ({}, {"top": 9}, {"depth": None}):
        lines = resnet.to_text(width=width, **options).splitlines()
        assert max(map(width_of, lines)) <= width


def test_a_narrow_table_drops_the_least_important_columns_first(resnet):
    seen = []
    for width in (40, 70, 90, 200):
        head = resnet.to_text(width=width)
        words = ["MACs", "Params", "Output", "Peak", "MACs %", "Other"]
        seen.append([word for word in words if word in head.partition("──")[0]])
    assert "MACs" in seen[0]
    assert seen[-1] == ["MACs", "Params", "Output", "Peak", "MACs %", "Other"]
    assert [len(words) for words in seen] == sorted(len(words) for words in seen)
    assert "conv1 (Conv2d)" in resnet.to_text(width=70)


def test_columns_asked_for_are_not_dropped(resnet):
    text = resnet.to_text(width=70, columns=["params", "other_ops", "neurons"])
    assert all(word in text for word in ("Params", "Other", "Neurons"))


def test_columns_asked_for_that_find_no_room_are_named(resnet):
    text = resnet.to_text(width=60, columns=["params", "macs", "other_ops", "neurons", "calls", "buffers"])
    assert max(map(width_of, text.splitlines())) <= 60
    assert (
        "Columns hidden at this width: Buffers" in text
        or "Columns hidden at this width: Calls, Buffers" in text
    )
    assert "Neurons" in text


def test_in_a_pipe_nothing_is_cut(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    model = nn.Sequential()
    name = "x" * 300
    model.add_module(name, nn.Conv2d(3, 4, 3))
    analysis = archcost.analyze(model, input_size=(1, 3, 8, 8))
    print(analysis)
    printed = capsys.readouterr().out
    analysis.table()
    assert capsys.readouterr().out.rstrip() == printed.rstrip()
    assert name in printed
    assert "…" not in printed
    assert "\x1b" not in printed
    # One long name does not push the numbers of the other rows out of sight.
    assert max(len(line) for line in printed.splitlines() if name not in line) < 260


def test_columns_in_the_environment_set_the_width_of_a_pipe(resnet, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "72")
    resnet.table()
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 72


def test_colours_on_a_terminal_and_none_with_no_color(resnet, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def drawn():
        file = io.StringIO()
        draw(resnet, Console(file=file, force_terminal=True, width=100))
        return file.getvalue()

    assert "\x1b[" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in drawn()
    plain = io.StringIO()
    draw(resnet, Console(file=plain, width=100))
    assert "\x1b" not in plain.getvalue()


def test_a_stream_that_cannot_hold_the_guides_gets_plain_ones(stack):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    draw(stack, Console(file=file))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "|- conv" in text or "|  |- conv" in text


def test_sort_and_top_list_layers_by_full_name(resnet):
    lines, total = body(resnet.to_text(top=3, sort="params", columns=["params"]))
    assert [line.split()[0] for line in lines[:3]] == ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    assert "others)" in lines[3]
    assert sum(map(by_column, lines)) == by_column(total) == 11_689_512
    every, _ = body(resnet.to_text(sort="macs", columns=["macs"]))
    values = [by_column(line) for line in every]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(resnet.total.macs, rel=0.01)
    coarse, _ = body(resnet.to_text(sort="macs", depth=1, columns=["macs"]))
    assert coarse[0].split()[0] == "layer1"


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
    text = analysis.to_text()
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
    assert says in analysis.to_text()
    assert says in analysis.to_html()
    both = json.loads(archcost.compare(Spectral(), nn.Linear(8, 8), input_size=(2, 8)).to_json())
    assert [both[side]["total"]["flops"] for side in "ab"] == [total.flops, 2 * real]


def test_where_nothing_is_complex_nothing_is_said_of_it(resnet):
    assert "FLOPs are twice the MACs, other ops are apart" in resnet.to_text()


def test_to_pandas_is_tidy(resnet):
    frame = resnet.to_pandas()
    assert list(frame.columns) == [column.name for column in MODULE_COLUMNS]
    assert len(frame) == len(resnet.modules)
    assert frame["macs"].iloc[0] == resnet.total.macs
    assert str(frame["macs"].dtype) == "int64"
    assert str(frame["kept_for_backward_bytes"].dtype) == "Int64"
    assert frame.set_index("name").loc["layer1.0.conv1", "output_shape"] == (1, 64, 56, 56)
    assert frame.loc[frame["level"] == 1, "macs_share_percent"].sum() == pytest.approx(100)
    layers = resnet.to_pandas(by="layers")
    assert list(layers["name"]) == [row.name for row in resnet.layers]
    operations = resnet.to_pandas(by="operations")
    assert list(operations.columns) == [column.name for column in OPERATION_COLUMNS]
    assert operations["macs"].sum() == resnet.total.macs
    assert str(operations["macs"].dtype) == "Int64"


def test_options_of_to_pandas(resnet):
    assert set(resnet.to_pandas(depth=1)["level"]) == {0, 1}
    assert len(resnet.to_pandas(depth=0)) == 1
    ranked = resnet.to_pandas(by="layers", top=4)["macs"]
    assert len(ranked) == 4
    assert ranked.is_monotonic_decreasing
    assert list(resnet.to_pandas(columns=["macs", "name"]).columns) == ["macs", "name"]
    assert resnet.to_pandas(sort="name")["name"].is_monotonic_increasing
    assert resnet.to_pandas(by="operations", depth=1)["module"].str.count(r"\.").max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["mac"]}, "'macs'"),
        ({"columns": "peak_memory"}, "'peak_memory_bytes'"),
        ({"sort": "parms"}, "'params'"),
        ({"by": "layer"}, "'layers'"),
        ({"columns": []}, "columns is empty"),
        ({"depth": -1}, "depth is -1"),
        ({"top": 0}, "top is 0"),
        ({"top": "3"}, "top is '3'"),
    ],
)
def test_a_wrong_option_is_named_with_close_ones(stack, options, message):
    for method in (stack.to_pandas, stack.to_csv, stack.to_markdown):
        with pytest.raises(SpecError, match=re.escape(message)):
            method(**options)
    if "by" not in options:
        for method in (stack.to_text, stack.table, stack.to_html):
            with pytest.raises(SpecError, match=re.escape(message)):
                method(**options)


def test_json_is_strict_and_says_its_schema(resnet, tmp_path):
    def no_constant(name):
        raise AssertionError(name)

    whole = json.loads(resnet.to_json(by="operations"), parse_constant=no_constant)
    assert whole["schema"] == "archcost.analysis/1"
    assert whole["torch"] == torch.__version__
    assert whole["inputs"] == [{"shape": [1, 3, 224, 224], "dtype": "float32"}]
    assert whole["total"]["macs"] == 1_814_073_344
    assert whole["total"]["depth"] == 18
    assert [row["name"] for row in whole["modules"]] == [row.name for row in resnet.modules]
    assert set(whole["modules"][0]) == {column.name for column in MODULE_COLUMNS}
    assert set(whole["operations"][0]) == {column.name for column in OPERATION_COLUMNS}
    assert "operations" not in json.loads(resnet.to_json(indent=None))
    assert resnet.to_json(tmp_path / "a.json") is None
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == resnet.to_json()


def test_csv_reads_back(resnet, tmp_path):
    rows = list(csv.DictReader(io.StringIO(resnet.to_csv())))
    assert [row["name"] for row in rows] == [row.name for row in resnet.modules]
    assert sum(int(row["macs"]) for row in rows if row["level"] == "1") == resnet.total.macs
    assert rows[1]["output_shape"] == "1x64x112x112"
    assert resnet.to_csv(tmp_path / "a.csv", by="layers") is None
    assert (tmp_path / "a.csv").read_bytes() == resnet.to_csv(by="layers").encode()


def test_flat_is_plain_numbers(resnet):
    numbers = resnet.flat(depth=1, prefix="cost")
    assert numbers["cost/params"] == 11_689_512
    assert numbers["cost/layer1/macs"] == resnet["layer1"].macs
    assert not any("layer1.0" in key for key in numbers)
    assert all(type(value) in (int, float) for value in numbers.values())
    assert resnet.flat()["peak_memory_bytes"] == resnet.total.peak_memory_bytes
    assert resnet.flat(prefix="cost/")["cost/macs"] == resnet.total.macs


HOSTILE = [
    "[red]bold[/red]",
    "a|b\\|c",
    "line\nbreak\r",
    "tab\there",
    "\x1b[31mansi\x1b[0m\x07",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd()+1",
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "'quoted', \"twice\"",
    "n" * 400,
    "модель 模型 é",
    "\u202egnp-exe",
    "lone\ud800",
    "*_`~$x$~`_*",
    ":smile:",
    " ",
]


@pytest.fixture(scope="module")
def hostile():
    model = nn.Sequential()
    for i, name in enumerate(HOSTILE):
        kind = name.replace("\ud800", "")  # Python itself refuses a class of that name
        odd = type(kind, (nn.Linear,), {"extra_repr": lambda self, n=name: n})
        model.add_module(name, odd(2 + i, 3 + i))
    return archcost.analyze(model, input_size=(1, 2))


def has_control(text):
    return [c for c in text if c != "\n" and not c.isprintable()]


def test_hostile_names_stay_text_on_the_terminal(hostile, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = hostile.to_text(columns=["type", "params", "details"])
    assert not has_control(text)
    lines, _ = body(text)
    assert len(lines) == len(HOSTILE)
    for name, line in zip(HOSTILE, lines, strict=True):
        assert line.startswith(visible(name) + " (")
    file = io.StringIO()
    draw(hostile, Console(file=file, force_terminal=True, width=90, color_system="standard"))
    drawn = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert not has_control(drawn)
    assert "[red]bold[/red]" in drawn
    assert ":smile:" in drawn
    assert "\\x1b[31mansi" in drawn
    assert max(width_of(line) for line in drawn.splitlines()) <= 90
    assert not has_control(repr(hostile))


def test_hostile_names_stay_text_in_markdown(hostile):
    for by in ("modules", "operations"):
        text = hostile.to_markdown(by=by, columns=None if by == "operations" else ["name", "type", "details"])
        assert not has_control(text)
        lines = [line for line in text.splitlines() if line.startswith("|")]
        unescaped = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}
        assert len(unescaped) == 1
        assert "<script" not in text.replace("\\<script", "")


def test_hostile_names_read_back_from_csv_json_and_pandas(hostile):
    text = hostile.to_csv()
    assert not has_control(text)
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows[2:]] == [csv_cell(name) for name in HOSTILE]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+", "-2+"))]
    raw = hostile.to_json(by="operations")
    assert raw.isascii()
    assert not has_control(raw)
    names = [row["name"] for row in json.loads(raw)["modules"][1:]]
    assert names == [name.replace("\ud800", "\\ud800") for name in HOSTILE]
    assert list(hostile.to_pandas()["name"])[1:] == HOSTILE
    assert len(hostile.flat(depth=1)) > 10 * len(HOSTILE)
    assert not any(has_control(key) for key in hostile.flat(depth=1))


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert all(name == "style" for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_names_stay_text_in_html(hostile):
    parser = Tags()
    parser.feed(hostile._repr_html_())
    folds = {"details", "summary"}
    assert parser.tags <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "span", *folds}
    shown = "".join(parser.text)
    assert not has_control(shown)
    for name in HOSTILE:
        assert visible(name) in shown


def test_html_shows_what_the_terminal_shows(stack):
    parser = Tags()
    parser.feed(stack.to_html())
    shown = "".join(parser.text)
    assert "more like blocks." in shown
    assert "(own operations" in shown
    assert "Total" in shown
    # No ink of its own: a notebook may be light or dark.
    assert not re.search(r"color:\s*(#|black|white)", stack.to_html())


def test_a_very_deep_model_is_drawn():
    model = nn.ReLU()
    for _ in range(150):
        model = nn.Sequential(model)
    analysis = archcost.analyze(model, input_size=(1, 2))
    assert "ReLU" in analysis.to_text(depth=None)


def test_repr_is_one_short_line(resnet):
    assert repr(resnet) == (
        "<Analysis of ResNet: 11,689,512 params, 1,814,073,344 MACs; print it for the table>"
    )


def test_nothing_heavy_is_imported_before_it_is_used():
    code = "import sys, archcost.analysis.analysis as a; a.Analysis; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert "archcost" in names
    assert not names & {"torch", "pandas", "rich", "tabulate", "numpy"}


def test_numbers_for_people():
    assert [si_text(n) for n in (0, 999, 1000, 4_089_184_256, 999_960, 25_557_032)] == [
        *("0", "999", "1.00 k", "4.09 G", "1.00 M", "25.6 M")
    ]
    assert [bytes_text(n) for n in (0, 1, 1_048_576)] == ["0", "1 B", "1.05 MB"]
    assert [percent_text(n) for n in (0, 0.01, 12.34, 100)] == ["0", "<0.1", "12.3", "100.0"]
    assert [ratio_text(n) for n in (1, 1.002, 0.5, 1234.5)] == ["1x", "1.002x", "0.50x", "1,234x"]


def test_spans_of_names():
    assert span(["2", "3", "4"]) == "2-4"
    assert span(["layer_8", "layer_9", "layer_10"]) == "layer_8-10"
    assert span(["7"]) == "7"
    assert span(["a", "b"]) == "a, b"
    assert span(["a", "b", "c"]) == "a ... c"
    assert span(["1", "3", "4"]) == "1 ... 4"


def test_text_helpers():
    assert visible("a\x1b\n\u202e\ud800é模") == "a\\x1b\\n\\u202e\\ud800é模"
    assert markdown_cell("a|b") == "a\\|b"
    assert markdown_cell("encoder_layer_0 __x__") == "encoder_layer_0 \\_\\_x\\_\\_"
    assert [csv_cell(t) for t in ("=1", "-3", "+2.5", "-a", "ok")] == ["'=1", "-3", "+2.5", "'-a", "ok"]
    assert fit("abcdef", 4) == "abc…"
    assert width_of(fit("模型模型", 5)) <= 5


def test_what_a_module_does_itself_is_the_rest(stack):
    ledger = Ledger(stack)
    own = ledger.own(stack["blocks.0"]).module
    assert own.macs == 0
    assert own.other_ops == stack["blocks.0"].other_ops - sum(
        stack[f"blocks.0.{child}"].other_ops for child in ("conv", "act")
    )
    assert own.other_ops == 4 * 8 * 8
