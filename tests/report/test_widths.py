"""Tables on terminals of any width: what matters most stays, what is left out is named, no head is cut."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import archcost
from archcost.latency.paths import PathTimes
from archcost.latency.prediction.predictor import Prediction
from archcost.latency.prediction.roofline import Roofline
from archcost.latency.store.measurement import Key, Measurement
from archcost.report.grid import Entry, Grid, Head, lay_out, that_fit
from archcost.rewriting.proposal import Raced

WIDTHS = (60, 80, 100, 120)
X = torch.rand(1, 3, 16, 16)
QUICK = {"store": False, "progress": False}


class Uncountable(nn.Module):
    """MACs that are only a lower bound, in one of its modules."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Linear(8, 8)

    def forward(self, x):
        x = self.second(self.first(x).mean((2, 3)))
        return torch.linalg.svd(x.view(-1, 8, 1) @ torch.ones(1, 8))[1]


@pytest.fixture(scope="module")
def results():
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).eval()
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    line = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: line)
        measured = archcost.measure(net, X, seconds=4, **QUICK)
    proposals = archcost.propose(net, X, **QUICK)
    race = Raced(1.33, 0.968, 0.02, 1.37, device="a machine", threads=1)
    raced = replace(proposals, proposals=tuple(replace(one, race=race) for one in proposals))
    return {
        "analysis": archcost.analyze(net, X),
        "comparison": archcost.compare(net, other, X),
        "measured": measured,
        "proposals": proposals,
        "raced": raced,
        "rewritten": archcost.rewrite(net, X, rules=["bottleneck"], **QUICK),
        "uncountable": archcost.analyze(Uncountable().eval(), X),
    }


def heads_of(text):
    """The lines of heads: one or two above a rule, below an empty line or a title."""
    for part in text.split("\n\n")[1:]:
        lines = part.splitlines()
        rule = next((at for at, line in enumerate(lines) if line.startswith("─")), 0)
        yield from lines[max(rule - 2, 0) : rule]


TABLES = ("analysis", "comparison", "measured", "proposals", "raced", "rewritten", "uncountable")


@pytest.mark.parametrize("width", [30, *WIDTHS])
@pytest.mark.parametrize("name", TABLES)
def test_no_line_is_wider_and_no_head_is_cut(results, name, width):
    text = results[name].to_text(width=width)
    assert max(map(len, text.splitlines())) <= width
    found = list(heads_of(text))
    assert found
    assert not [line for line in found if "…" in line]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["comparison", "measured", "proposals", "raced", "rewritten"])
def test_every_column_is_on_show_or_named(results, name, width):
    """A word of each head; heads stand on two lines where room is short."""
    whole, text = (results[name].to_text(width=w) for w in (None, width))
    every = {head for line in heads_of(whole) for head in line.split("  ") if head.strip()}
    shown = " ".join(" ".join(heads_of(text)).split())
    at = text.find("Columns hidden at this width: ")
    named = "" if at < 0 else " ".join(text[at:].partition("\n\n")[0].split())
    missing = [
        head for head in every if not all(w in shown for w in head.split()) and head.strip() not in named
    ]
    assert not missing


@pytest.mark.parametrize("width", [80, 100, 120])
def test_what_was_measured_and_its_errors_outlive_what_was_asked(results, width):
    shown = " ".join(heads_of(results["raced"].to_text(width=width)))
    for word in ("Speedup", "error", "Rule"):
        assert word in shown
    assert "Verdict" in " ".join(heads_of(results["raced"].to_text(width=width, full=True))) or width < 100
    assert "ms" in shown.split() or width < 120  # the times themselves


@pytest.mark.parametrize("width", [80, 100, 120])
def test_proposals_keep_their_verdict_beside_what_they_save(results, width):
    shown = " ".join(heads_of(results["proposals"].to_text(width=width, full=True)))
    assert {"Rule", "MACs", "Verdict"} <= set(shown.split())


@pytest.mark.parametrize("width", range(30, 121, 10))
@pytest.mark.parametrize("name", ["proposals", "raced", "rewritten"])
def test_the_rule_is_named_at_every_width(results, name, width):
    heads = list(heads_of(results[name].to_text(width=width)))
    assert "Rule" in " ".join(heads[1:] if name == "rewritten" else heads).split()


@pytest.mark.parametrize("width", [24, 30, 40, 50])
def test_speedup_and_error_are_the_last_to_go(results, width):
    shown = " ".join(heads_of(results["raced"].to_text(width=width))).split()
    assert shown[0] == "Layer" or "Layer" in shown
    others = {"Options", "Saved", "Params", "Now", "Raced"}
    assert ({"Speedup", "error"} <= set(shown)) or not others & set(shown)


@pytest.mark.parametrize("width", range(30, 121, 10))
@pytest.mark.parametrize(("name", "by"), [("proposals", "proposals"), ("rewritten", "layers")])
def test_columns_that_were_asked_for_go_from_the_last(results, name, by, width):
    names = ["rule", "macs_ratio", "macs", "options"]
    text = results[name].to_text(width=width, by=by, columns=names, top=3)
    assert "Rule" in " ".join(heads_of(text)).split()
    left = " ".join(text.partition("Columns hidden at this width: ")[2].split())
    assert not left or left.startswith(("MACs x, MACs, Options", "MACs, Options", "Options"))


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_no_two_rows_of_a_layer_look_alike(results, width):
    """Several rows of one rule, as where all were timed, differ in the rule's options alone."""
    rows = results["raced"].to_pandas()
    assert rows.duplicated(["name", "rule"]).any()
    assert not rows.duplicated(["name", "rule", "options"]).any()
    shown = " ".join(heads_of(results["raced"].to_text(width=width))).split()
    assert {"Rule", "Options"} <= set(shown)


def timed(measured, *layouts):
    """The same, each convolution in turn having been timed on PyTorch's own path in one of the layouts."""
    tasks = [call.task for call in measured.calls]
    found = []
    for task, layout in zip(tasks, layouts, strict=True):
        key = Key("here", task.spec, "float32", "native", layout=layout)
        one = Measurement(key, "here", 1e-3, 0.0, 25, 0, "cpu", torch.__version__)
        found.append(PathTimes(task, (one,), {"native": 0.0}, {}))
    return replace(measured, convolutions=tuple(found))


@pytest.mark.parametrize("width", range(40, 200, 10))
def test_a_column_without_anything_in_it_takes_no_room_from_another(results, width):
    bare = timed(replace(results["measured"], roofline=None, context=None), "contiguous", "contiguous")
    text = bare.to_text(width=width)
    shown = " ".join(" ".join(heads_of(text)).split())
    left = (
        text[text.index("Columns hidden at this width: ") :]
        if "Columns hidden at this width: " in text
        else ""
    )
    left = " ".join(left[: left.find("Paths: ")].split())
    empty = [head for head in ("Workspace", "In context", "Roofline") if head in shown]
    assert not empty or not [head for head in ("Convolution", "Native", "Multiplications") if head in left]


@pytest.mark.parametrize("width", range(40, 180, 10))
def test_a_prediction_is_shown_whole_or_not_at_all(results, width):
    measured = results["measured"]
    one = Prediction(0.001, 0.12, "winograd-4", "contiguous", extrapolated=False)
    tasks = {call.task: one for call in measured.calls}
    text = replace(measured, convolutions=(), predictions=tasks).to_text(width=width)
    shown = " ".join(" ".join(heads_of(text)).split())
    assert shown.count("Predict") in (0, 3)


@pytest.mark.parametrize(
    ("layouts", "said"),
    [
        (("contiguous", "channels_last"), "contiguous for 1, channels_last for 1 layers"),
        (("channels_last", "channels_last"), "channels_last for 2 layers"),
    ],
)
def test_native_says_in_which_layout(results, layouts, said):
    found = timed(results["measured"], *layouts)
    assert (
        f"Native ms: PyTorch's own convolution in the faster layout of its input, {said}" in found.to_text()
    )
    assert "PyTorch's own" not in found.to_text(columns=["name", "best_ms"])


def test_a_comparison_shows_both_sides_of_a_measure_or_none(results):
    for width in range(30, 130, 5):
        text = results["comparison"].to_text(width=width, columns=None)
        for measure in ("Params", "MACs"):
            found = " ".join(list(heads_of(text))[-2:])
            assert found.count(measure) in (0, 2), (width, found)


@pytest.mark.parametrize("columns", [None, ["params"], ["params", "macs"]])
@pytest.mark.parametrize("form", ["text", "html"])
def test_signs_are_explained_where_they_are_on_show(results, columns, form):
    analysis = results["uncountable"]
    said = getattr(analysis, f"to_{form}")(columns=columns, full=True)
    bound = ">=" if form == "text" else "&gt;="
    explained = f"{bound} marks sums without the operations that could not be counted"
    assert (explained in said) == (columns != ["params"])
    assert said.count(bound) != 1


def test_the_first_screen_explains_the_sign_in_its_totals(results):
    for columns in (None, ["params"]):
        text = results["uncountable"].to_text(columns=columns)
        assert ">=42.5 k MACs" in text
        assert "Lower bound: >= marks sums without" in text


def test_nothing_is_said_of_signs_that_found_no_room(results):
    analysis = results["uncountable"]
    text = analysis.to_text(width=34, columns=["params", "output_shape", "macs"], full=True)
    assert "Columns hidden at this width:\n  MACs" in text
    assert ">=" not in text


def test_a_comparison_explains_its_signs(results):
    text = archcost.compare(results["uncountable"], results["analysis"]).to_text()
    assert "Lower bound: >= marks sums without the operations that could not be counted" in text
    assert "?: not known" in text
    plain = results["comparison"].to_text()
    assert ">=" not in plain
    assert "?: not known" not in plain


def test_units_and_errors_are_those_of_columns_on_show(results):
    wide, narrow = (results["raced"].to_text(width=width, full=True) for width in (None, 60))
    for what, words in (
        ("Saved %", "Saved % is a share of the model's MACs"),
        ("Speedup", "Speedup is old over new"),
    ):
        assert what in " ".join(heads_of(wide))
        assert words in wide
        shown = what.split()[0] in " ".join(heads_of(narrow))  # on two lines where room is short
        assert (words in " ".join(narrow.split())) == shown
    assert "of the output the same" not in wide  # no data were given
    assert "Speedup is" not in results["proposals"].to_text(full=True)  # nothing was timed


def test_what_a_measurement_means_is_said_of_columns_on_show(results):
    measured = results["measured"]
    alone, context = "native and best time each convolution alone", "in context: inside real forward passes"
    for form in ("text", "markdown", "html"):
        every = getattr(measured, f"to_{form}")()
        few = getattr(measured, f"to_{form}")(columns=["name", "latency_ms"])
        assert alone in every
        assert context in every
        assert context in few
        assert alone not in few


def test_errors_of_a_rewrite_are_explained_where_they_are_on_show(results):
    text = results["rewritten"].to_text()
    assert "Error of weights" in text
    assert "W' the kernel that the new layers compose to" in text
    assert "over the data given" not in text  # none were
    narrow = results["rewritten"].to_text(width=30)
    assert "Error" not in " ".join(heads_of(narrow))
    assert "Errors:" not in narrow


def grid(*heads, label="Layer", name="0"):
    return Grid(label, heads, [Entry(((name, ""),), tuple("1234" for _ in heads))])


def test_the_head_over_short_labels_has_room():
    one = grid(Head("a", 2), Head("bbbb", 1), label="New layer")
    assert that_fit(one, 16) == [0]
    first = "".join(text for text, _ in lay_out(grid(Head("a", 2), label="New layer"), 16)[0])
    assert first == "New layer     a"


def test_a_narrow_column_takes_the_room_that_a_wide_one_cannot():
    one = grid(Head("most", 9), Head("wide" * 9, 5), Head("last", 1))
    assert that_fit(one, 20) == [0, 2]


@pytest.mark.parametrize(("keep", "kept"), [(90, [0, 1]), (89, [1])])
def test_a_telling_text_is_cut_where_it_is_too_long(keep, kept):
    heads = [Head("Path", keep, right=False), Head("ms", 95)]
    one = Grid("Layer", heads, [Entry((("conv1", ""),), ("a-long-name-" * 5, "12.345"))])
    assert that_fit(one, 50) == kept
    lines = ["".join(text for text, _ in line) for line in lay_out(one, 50)]
    assert lines[-1] == "conv1  a-long-name-a-long-name-a-long-nam…  12.345"


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_texts_are_cut_before_numbers_and_heads(width):
    heads = [Head("Why this", right=False), Head("ms"), Head("From", right=False)]
    one = Grid("Path", heads, [Entry((("a-path", ""),), ("because " * 8, "12.345", "somebody " * 4))])
    assert that_fit(one, width, asked=True) == ([0, 1, 2] if width > 40 else [0, 1])
    kept = replace(one, heads=heads[:2], entries=[replace(one.entries[0], cells=one.entries[0].cells[:2])])
    lines = ["".join(text for text, _ in line) for line in lay_out(kept if width == 40 else one, width)]
    assert max(map(len, lines)) <= width
    assert "12.345" in lines[-1]
    assert "…" in lines[-1] or width == 200
    assert "…" not in "".join(lines[:-1])


def test_a_column_stands_only_beside_what_it_is_of():
    sides = [Head("p a", 5, group="p"), Head("p b", 5, group="p"), Head("p b / a", 4, group="p")]
    one = grid(Head("other", 9), *sides)
    wide = [that_fit(one, width) for width in range(12, 60)]
    assert {tuple(kept) for kept in wide} == {(0,), (0, 1, 2), (0, 1, 2, 3)}
