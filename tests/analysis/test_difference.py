"""The difference of two versions: totals, the fewest modules that explain it, and limits on it."""

import csv
import io
import json
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

import archcost
from archcost.analysis.changes import ADDED_UP
from archcost.analysis.totals import limit_of
from archcost.errors import InputError, SpecError

SIZE = (1, 3, 32, 32)


def resnet(*blocks):
    return ResNet(BasicBlock, [*blocks], num_classes=10).eval()


def changed(difference):
    return {row.name: (row.kind, row.why) for row in difference.changes}


def diff(a, b, size=SIZE, **options):
    return archcost.diff(a, b, input_size=size, progress=False, **options)


@pytest.fixture(scope="module")
def longer():
    return diff(
        resnet(2, 2, 2, 2), resnet(2, 3, 2, 2), names=("old", "new"), fail_on=["macs>+5%", "depth>30"]
    )


@pytest.fixture(scope="module")
def published():
    return archcost.diff("torchvision:resnet18", "torchvision:resnet34", progress=False)


def adds_up(difference):
    """The costs of the rows add up to the difference in total, at any depth."""
    for depth in (None, 2, 1, 0):
        frame = difference.to_pandas(depth=depth)
        for name in ADDED_UP:
            whole = getattr(difference.b.total, name) - getattr(difference.a.total, name)
            assert frame[f"{name}_difference"].sum() == whole, (depth, name)
    return True


def test_one_more_block_is_one_row(longer):
    assert changed(longer) == {"layer2.2": ("added", "")}
    (row,) = longer.changes
    assert row.modules == 6
    assert row.b.cost.macs == longer.b["layer2.2"].macs == longer.b.total.macs - longer.a.total.macs
    assert adds_up(longer)


def test_published_models_differ_by_their_blocks(published):
    added = [*("layer1.2", "layer2.2", "layer2.3"), *(f"layer3.{i}" for i in range(2, 6)), "layer4.2"]
    assert changed(published) == dict.fromkeys(added, ("added", ""))
    assert adds_up(published)
    text = published.to_text()
    assert "layer3.2 to layer3.5 (BasicBlock, 24 modules)" in text
    assert text.index(
        "Why: layer1.2 (BasicBlock, 6 modules) and 7 like it added: +1.85 G MACs (+102.0 %)"
    ) < text.index("Total")
    back = archcost.diff(published.b, published.a)
    assert {row.kind for row in back.changes} == {"removed"}
    assert adds_up(back)


def test_a_wider_layer_is_the_cause_and_what_only_got_other_shapes_comes_after():
    wide = resnet(1, 1, 1, 1)
    wide.conv1, wide.maxpool = nn.Conv2d(3, 64, 7, stride=1, padding=3, bias=False), nn.MaxPool2d(3, 2, 1)
    difference = diff(resnet(1, 1, 1, 1), wide)
    found = changed(difference)
    assert found["conv1"] == ("changed", "stride (2, 2) -> (1, 1)")
    assert found["layer1.0.conv1"][0] == "resized"
    assert {kind for kind, _ in found.values()} == {"changed", "resized"}
    assert adds_up(difference)
    lines = difference.to_text().splitlines()
    rows = [
        line.split()[0]
        for line in lines[next(i for i, x in enumerate(lines) if x.startswith("Module")) :]
        if line
    ]
    assert rows.index("conv1") < rows.index("layer1.0")
    assert len(rows) < 20
    why = next(line for line in lines if line.startswith("Why"))
    assert why.startswith("Why: conv1 (Conv2d) changed (stride (2, 2) -> (1, 1)): +7.23 M MACs (+39.8 %)")
    assert "modules as before on other shapes" in why


def test_a_renamed_and_a_moved_subtree_cost_nothing():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.neck = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))

        def forward(self, x):
            return self.neck(self.stem(x))

    class Renamed(Around):
        def __init__(self):
            super().__init__()
            self.throat = self.neck
            del self.neck

        def forward(self, x):
            return self.throat(self.stem(x))

    difference = diff(Around(), Renamed())
    assert changed(difference) == {"throat": ("renamed", "was neck")}
    assert adds_up(difference)
    assert "1 moved or renamed" in difference.to_text()
    moved = diff(Around(), nn.Sequential(Around(), nn.Conv2d(8, 2, 1)))
    assert changed(moved) == {"0": ("moved", "was the model"), "1": ("added", "")}
    assert adds_up(moved)


def test_a_part_exchanged_for_another_is_one_row():
    class Net(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.stem, self.part = nn.Conv2d(3, 8, 3, padding=1), part

        def forward(self, x):
            return self.part(self.stem(x))

    separable = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
    difference = diff(Net(nn.Conv2d(8, 8, 3, padding=1)), Net(separable))
    assert changed(difference) == {"part": ("replaced", "Conv2d -> Sequential")}
    assert adds_up(difference)
    act = diff(Net(nn.ReLU()), Net(nn.GELU()))
    assert changed(act) == {"part": ("replaced", "ReLU -> GELU")}


def test_a_functional_model_says_which_operations_it_runs_more():
    class Functional(nn.Module):
        def __init__(self, times, stride):
            super().__init__()
            self.weight, self.times, self.stride = nn.Parameter(torch.rand(3, 3, 3, 3)), times, stride

        def forward(self, x):
            for _ in range(self.times):
                x = F.relu(F.conv2d(x, self.weight, stride=self.stride, padding=1))
            return x

    difference = diff(Functional(1, 1), Functional(3, 1))
    why = "+2x convolution 3x3x3x3 padding 1, +2x relu"
    assert changed(difference) == {"": ("changed", why)}
    assert f"(the model) (Functional) changed ({why}): " in difference.to_text()
    assert adds_up(difference)
    strided = changed(diff(Functional(1, 1), Functional(1, 2)))
    assert strided[""][1] == "+convolution 3x3x3x3 stride 2 padding 1, -convolution 3x3x3x3 padding 1"


def test_edits_of_one_line_of_code_are_one_cause():
    def block(width):
        return nn.Conv2d(3, 3, width, padding="same")

    with archcost.recording_sites():
        old, new = (nn.Sequential(*(block(width) for _ in range(3))) for width in (3, 5))
    why = next(line for line in diff(old, new).to_text().splitlines() if line.startswith("Why"))
    assert why.startswith("Why: 0 (Conv2d) and 2 like it changed (kernel_size (3, 3) -> (5, 5)) at ")
    assert "test_difference.py:" in why
    assert why.endswith("+442 k MACs (+177.8 %)")


def test_the_same_model_has_no_change():
    difference = diff(resnet(1, 1, 1, 1), resnet(1, 1, 1, 1))
    assert difference.changes == ()
    assert "No module changed" in difference.to_text()
    assert difference.to_pandas().empty
    assert "<details>" not in difference.to_markdown()


class Odd(nn.Module):
    def forward(self, x):
        return torch.ops.archcost_diff.mystery(x)


@pytest.fixture(scope="module")
def mystery():
    with torch.library._scoped_library("archcost_diff", "DEF") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: torch.empty_like(x), "Meta")
        yield


@pytest.mark.usefixtures("mystery")
def test_an_unknown_is_a_lower_bound_and_its_change_not_known():
    difference = diff(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 4, 3), Odd()),
                      fail_on=["macs>+5%", "macs>1k", "macs>1G", "params>+0"])  # fmt: skip
    macs = next(line for line in difference.to_text().splitlines() if line.startswith("MACs "))
    assert macs.split()[:7] == ["MACs", "97.2", "k", ">=97.2", "k", "?", "?"]
    assert [verdict.holds for verdict in difference.verdicts] == [None, False, None, True]
    assert len(difference.broken) == 3
    assert "❔ at most +5%" in macs
    assert "Not counted in b" in difference.to_text()
    frame = difference.to_pandas().set_index("name")
    assert frame.loc["1", "change"] == "replaced"
    assert frame["macs_difference"].isna()["1"]


@pytest.mark.usefixtures("mystery")
def test_an_unknown_that_both_have_alike_leaves_the_difference_exact():
    a = nn.Sequential(nn.Conv2d(3, 4, 3), Odd(), nn.Conv2d(4, 4, 1))
    b = nn.Sequential(nn.Conv2d(3, 4, 3), Odd(), nn.Conv2d(4, 8, 1))
    difference = diff(a, b, fail_on=["macs>+20%", "macs>+1k", "macs>+1%"])
    macs = next(total for total in difference.totals if total.name == "macs")
    assert (macs.difference, macs.percent) == (4 * 4 * 30 * 30, None)
    assert [verdict.holds for verdict in difference.verdicts] == [True, False, None]


def test_limits_are_read_and_held(longer):
    assert [verdict.holds for verdict in longer.verdicts] == [False, True]
    (broken,) = longer.broken
    assert broken.text.startswith("macs>+5%: MACs 37.0 M -> 41.7 M, +12.7 %")
    text = longer.to_text()
    assert text.index("❌ macs>+5%: ") < text.index("Total")
    assert "✅ at most 30" in text


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("macs>+12%", False),
        ("macs > +13 %", True),
        ("macs<+5%", True),
        ("params>+200k", False),
        ("params>+1M", True),
        ("params>11,300,000", False),
        ("peak_memory>+0", True),
        ("peak_memory_bytes>1 MB", True),
        ("activations>+1kB", False),
        ("saved_for_backward>+1%", False),
        ("flops>70M", False),
        ("depth>+1", False),
        ("depth<25", False),
        ("receptive_field>+10", False),
        ("receptive_field<400", True),
        ("macs>-20%", False),
    ],
)
def test_each_form_of_a_limit(longer, text, holds):
    difference = archcost.diff(longer.a, longer.b, fail_on=text)
    assert [verdict.holds for verdict in difference.verdicts] == [holds]
    assert difference.verdicts[0].limit.text == text
    assert difference.verdicts[0].limit.bound in difference.to_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs", "cannot be read; write it as in 'macs>"),
        ("macs>5x", "cannot read '5x'"),
        ("mac>+5%", "nothing is called 'mac'; did you mean 'macs'?"),
        ("peak>+5%", "did you mean 'peak_memory_bytes'?"),
        ("macs>=5", "'>=', which is neither > nor <"),
        ("macs>+5 millions", "cannot read '5 millions'"),
        ("macs>+1MB", "cannot read '1MB'"),
    ],
)
def test_a_limit_that_cannot_be_read_says_how(text, message):
    with pytest.raises(SpecError) as raised:
        limit_of(text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_from_nothing_and_to_nothing():
    difference = diff(nn.Sequential(), nn.Sequential(nn.Conv2d(3, 4, 1)), fail_on=["macs>+5%", "macs<-5%"])
    assert [verdict.holds for verdict in difference.verdicts] == [False, True]
    assert "▲ new" in difference.to_text()
    back = archcost.diff(difference.b, difference.a)
    assert "▼ -100.0 %" in back.to_text()


def test_formats_and_files(longer, published, tmp_path):
    whole = json.loads(longer.to_json())
    assert whole["schema"] == "archcost.difference/1"
    assert whole["changes"][0]["name_a"] is None
    assert (
        whole["changes"][0]["built_at"].endswith(".py:254:17")
        or "resnet.py" in whole["changes"][0]["built_at"]
    )
    assert whole["limits"][0] == {"limit": "macs>+5%", "measure": "macs", "holds": False}
    assert {total["name"] for total in whole["totals"]} >= {"macs", "depth", "receptive_field"}
    rows = list(csv.DictReader(io.StringIO(published.to_csv())))
    assert [row["name"] for row in rows] == [row.name for row in published.changes]
    assert list(longer.to_pandas(by="totals")["name"])[:2] == ["params", "macs"]
    assert list(published.to_pandas(columns=["macs"]).columns)[-5:] == [
        *("macs_a", "macs_b", "macs_difference", "macs_ratio", "macs_percent")
    ]
    assert published.to_pandas(top=1, sort="params_difference")["name"][0] == "layer4.2"
    assert "(4 others)" in published.to_text(top=4)
    longer.save(tmp_path / "difference.json")
    for again in (archcost.load_result(tmp_path / "difference.json"), pickle.loads(pickle.dumps(longer))):
        assert again.to_text() == longer.to_text()
    with pytest.raises(SpecError, match="did you mean 'macs"):
        longer.to_text(columns=["mac"])
    assert len(repr(longer)) < 300


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_line_is_wider_than_the_terminal(published, width):
    assert max(map(len, published.to_text(width=width).splitlines())) <= width


def test_depth_sums_up_by_the_modules_there(published):
    frame = published.to_pandas(depth=1).set_index("name")
    assert list(frame.index) == ["layer1.2", "layer2", "layer3", "layer4.2"]  # one alone keeps its name
    assert frame.loc["layer3", "modules"] == 24
    assert set(frame["change"]) == {"added"}
    assert len(published.to_pandas(depth=0)) == 1
    assert "layer3 (Sequential, 24 modules)" in published.to_text(depth=1)


def test_hostile_names_stay_text():
    def model(*names):
        found = nn.Sequential()
        for name in names:
            found.add_module(name, nn.Linear(2, 2))
        return found

    hostile = ("a|b", "`x`", "<img src=x>", "</details>", "\x1b[31m", "=1+1", "[red]y")
    difference = diff(model("plain"), model("plain", *hostile), (1, 2), names=("<i>`|", "\x1b[0m"))
    markdown = difference.to_markdown()
    assert markdown.count("</details>") - markdown.count("\\</details>") == 1
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 2
    assert "\\`x\\`" in markdown
    assert "\\<img src=x>" in markdown
    page = difference.to_html()
    assert "<img" not in page
    assert page.count("</details>") == 1
    for text in (difference.to_text(), markdown, difference.to_csv(), repr(difference)):
        assert not [c for c in text if c != "\n" and not c.isprintable()]


def test_inputs_differ_and_analyses_have_their_own(longer):
    difference = archcost.diff(
        nn.Linear(4, 2), nn.Linear(6, 2), torch.zeros(1, 4), inputs_b=torch.zeros(1, 6)
    )
    assert "the inputs differ" in difference.to_text()
    with pytest.raises(InputError, match="diff: an Analysis has its inputs"):
        archcost.diff(longer.a, longer.b, torch.zeros(SIZE))
    with pytest.raises(SpecError, match="diff: names is"):
        archcost.diff(longer.a, longer.b, names=("a",))
