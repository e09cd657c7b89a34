"""An Analysis in pandas, markdown, CSV, JSON, HTML and a flat dict says what the table says."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import archcost
from archcost.analysis.reports.columns import MODULE_COLUMNS
from archcost.analysis.reports.operation_columns import OPERATION_COLUMNS
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.reports.tree import span
from archcost.errors import SpecError
from archcost.report.text import csv_cell, fit, markdown_cell, visible, width_of
from archcost.report.units import bytes_text, percent_text, ratio_text, si_text
from helpers.tables import Tags


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
