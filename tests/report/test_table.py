"""An Analysis as a table: rows add up, blocks are folded, no line is wider than the terminal."""

import io
import json
import re

import pytest
from rich.console import Console
from torch import nn

import archcost
from archcost.analysis.reports.columns import MODULE_COLUMNS
from archcost.analysis.reports.rows import Ledger
from archcost.analysis.reports.tree import tree
from archcost.report.text import width_of
from helpers.tables import body, draw, number


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
    text = stack.to_text(full=True, columns=["params", "macs"])
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
    assert "more like" not in archcost.analyze(model, input_size=(1, 4, 8, 8)).to_text(full=True)


def test_one_short_line_is_not_hidden_behind_another():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    lines, _ = body(archcost.analyze(model, input_size=(1, 4)).to_text(full=True))
    assert [line.split()[0] for line in lines] == ["0", "1"]


def test_own_operations_and_parameters_have_a_row(stack):
    lines, _ = body(stack.to_text(full=True, columns=["params", "other_ops"]))
    assert any("(own operations)" in line and line.startswith("│  ") for line in lines)
    last = lines[-1]
    assert last.startswith("(own operations and parameters)")
    assert re.split(r"\s{2,}", last)[1] == "1"


def test_an_own_row_appears_only_for_a_column_that_is_shown(stack):
    assert "(own" not in stack.to_text(full=True, columns=["macs"])
    assert "(own" in stack.to_text(full=True, columns=["other_ops"])


def test_a_model_that_is_one_layer_has_one_row():
    lines, total = body(archcost.analyze(nn.Conv2d(3, 8, 3), input_size=(1, 3, 8, 8)).to_text(full=True))
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
        head = resnet.to_text(width=width, full=True)
        words = ["MACs", "Params", "Output", "Peak", "MACs %", "Other"]
        seen.append([word for word in words if word in head.partition("──")[0]])
    assert "MACs" in seen[0]
    assert seen[-1] == ["MACs", "Params", "Output", "Peak", "MACs %", "Other"]
    assert [len(words) for words in seen] == sorted(len(words) for words in seen)
    assert "conv1 (Conv2d)" in resnet.to_text(width=70, full=True)


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
    draw(stack, Console(file=file), full=True)
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
