"""Proposals and rewrites as tables, pandas, CSV, HTML and strict JSON: alike is one row, slow is marked."""

import dataclasses
import json
import pickle

import pytest
import torch
from torch import nn

import archcost
from archcost.merging.chain import chained
from archcost.rewriting.plan.applying import Outcome
from archcost.rewriting.proposal import Advice, PlaceCosts, Proposal, Raced, Skipped
from archcost.rewriting.proposals import Proposals
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.reports.columns import COLUMNS
from archcost.rewriting.reports.proposals import SCHEMA
from archcost.rewriting.reports.rewritten import COLUMNS as LAYERS
from archcost.spec import ConvSpec


def net():
    layers = [nn.Conv2d(3, 8, 5, padding=2)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2)]
    return nn.Sequential(*layers)


MODEL = net()
ANALYSIS = archcost.analyze(MODEL, input_size=(1, 3, 16, 16))
ALIKE = ("2", "4", "6", "8")


def spec(in_channels=8):
    return ConvSpec(in_channels, 8, 5, padding=2, input_size=(16, 16))


def proposal(name, rule="asymmetric", in_channels=8, rank=4, error=0.25, race=None, **changes):
    """A KxK as Kx1 and 1xK of a rank, as a rule would make it; times and errors as given."""
    old = spec(in_channels)
    first = ConvSpec(in_channels, rank, (5, 1), padding=(2, 0), bias=False, input_size=(16, 16))
    chain = chained(
        dataclasses.replace(first, padding=((2, 2), (2, 2))), {"out_channels": 8, "kernel_size": (1, 5)}
    )
    new = tuple(conv.spec for conv in chain)
    costs = dict(activation_bytes=8192, depth=1, nonlinearities=0, receptive_field=(5, 5))
    after = {**costs, "activation_bytes": 12288, "depth": 2}
    given = dict(
        rule=rule,
        options={"rank": rank},
        type_name="Conv2d",
        shape=f"{in_channels} -> 8, 5x5",
        replacement=Replacement({name: chain}),
        old=(old,),
        new=new,
        before=PlaceCosts(params=old.params, macs=old.macs, **costs),
        after=PlaceCosts(params=sum(s.params for s in new), macs=sum(s.macs for s in new), **after),
        weight_error=error,
        race=race,
    )
    return Proposal(**{**given, **changes})


SLOW = Raced(old_ms=1.0, new_ms=1.5, spread_ms=0.1, speedup=0.66, device="a machine", threads=2)
FAST = Raced(old_ms=1.0, new_ms=0.5, spread_ms=0.1, speedup=2.0, device="a machine", threads=2)


def proposals(*given, skipped=(), advice=(), device=None):
    return Proposals(ANALYSIS, tuple(given), tuple(skipped), tuple(advice), device)


def rows_of(text, start):
    """The lines of the second table, from the one whose label begins so."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Layer "))
    return [line for line in lines[at:] if line.startswith(start)]


def test_layers_that_are_alike_share_one_row_with_their_errors_as_a_range():
    found = proposals(*(proposal(name, error=0.1 * i) for i, name in enumerate(ALIKE, 1)))
    (row,) = rows_of(found.to_text(), "2")
    assert row.startswith("2 and 3 more  8 -> 8, 5x5  asymmetric  rank 4")
    assert "0.100 to 0.400" in row
    saved = 100 * sum(one.before.macs - one.after.macs for one in found) / ANALYSIS.total.macs
    assert f" {saved:.1f} " in row
    assert not rows_of(found.to_text(), "4")


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 3},
        {"rule": "separable"},
        {"race": SLOW},
        {"in_channels": 3},
    ],
    ids=str,
)
def test_what_differs_in_more_than_its_weights_has_a_row_of_its_own(change):
    found = proposals(proposal("2"), proposal("4", **change))
    assert rows_of(found.to_text(), "2")[0].startswith("2 ")
    assert rows_of(found.to_text(), "4")[0].startswith("4 ")


def test_options_that_name_a_replaced_module_do_not_keep_alike_layers_apart():
    def merged(name, other):
        one = proposal(name)
        chains = {**one.replacement.chains, other: ()}
        return dataclasses.replace(one, replacement=Replacement(chains, exact=True), options={"last": other})

    text = proposals(merged("2", "3"), merged("4", "5")).to_text()
    assert rows_of(text, "2 and 1 more")


def test_a_layer_has_its_best_proposal_first_and_slow_ones_last_with_both_times():
    found = proposals(
        proposal("2", rule="slow", error=0.01, race=SLOW),
        proposal("2", rule="rough", error=0.5),
        proposal("2", rule="close", error=0.1, race=FAST),
    )
    lines = found.to_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("2 "))
    assert "close" in lines[at]
    assert lines[at].rstrip().endswith("closest weights")
    assert "rough" in lines[at + 1]
    assert lines[at + 1].startswith("   ")  # the layer is named once
    assert "slow" in lines[at + 2]
    assert "1.00 -> 1.50" in lines[at + 2]
    assert "0.66x" in lines[at + 2]
    assert lines[at + 2].rstrip().endswith("slower on this machine")


def test_every_rule_has_a_line_with_what_it_comes_to_in_the_whole_model():
    found = proposals(
        *(proposal(name, error=0.2) for name in ALIKE), proposal("2", rule="separable", rank=3, race=SLOW)
    )
    text = found.to_text()
    macs = ANALYSIS.total.macs + sum(one.after.macs - one.before.macs for one in found["2"][:1]) * 4
    line = next(line for line in text.splitlines() if line.startswith("asymmetric"))
    assert line.split()[1:4] == ["4", "of", "4"]
    assert f"{macs / ANALYSIS.total.macs:.2f}x" in line
    assert "0.200" in line
    line = next(line for line in text.splitlines() if line.startswith("separable"))
    assert line.split()[1:4] == ["0", "of", "1"]
    assert line.rstrip().endswith("1 of 1")


def test_columns_of_which_nothing_is_known_are_left_out():
    plain, timed = (
        next(line for line in proposals(one).to_text().splitlines() if line.startswith("Layer "))
        for one in (proposal("2"), proposal("2", race=FAST))
    )
    for head in ("Raced ms", "Speedup"):
        assert head not in plain
        assert head in timed
    assert "Native ms" not in timed
    assert "Output error" not in timed


def test_times_of_the_store_stand_beside_those_of_a_race():
    one = proposal("2", race=FAST)
    before = dataclasses.replace(one.before, latency_ms=2.0, best_ms=1.25)
    after = dataclasses.replace(one.after, latency_ms=1.0, best_ms=0.5)
    text = proposals(dataclasses.replace(one, before=before, after=after), device="the store's").to_text()
    assert "2.00 -> 1.00" in text
    assert "1.25 -> 0.500" in text
    assert "1.00 -> 0.500" in text
    assert "stored times of single convolutions" in text
    assert "--store :memory: leaves them out): the store's" in text
    assert "on a machine, 2 threads" in text


def test_without_times_the_report_says_how_to_get_them():
    text = proposals(proposal("2")).to_text()
    assert "Times: not measured on this machine; Proposals.measured() or archcost propose --measure" in text


def test_no_line_is_wider_than_asked_and_rule_and_verdict_stay_longest():
    skipped = [Skipped("0", "Conv2d", None, "why " * 60)]
    found = proposals(*(proposal(name, race=SLOW) for name in ALIKE), skipped=skipped)
    for width in (60, 80, 120):
        lines = found.to_text(width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert any("Rule" in line and "Verdict" in line for line in lines)
    assert any(len(line) > 120 for line in found.to_text().splitlines())
    assert "Columns hidden at this width: Now, " in found.to_text(width=60)
    assert "Columns hidden at this width" not in found.to_text()


def test_what_stays_is_grouped_by_reason_with_a_count_and_the_first_names():
    names = [f"layer{i}.0.conv" for i in range(9)]
    skipped = [Skipped(name, "Conv2d", "asymmetric", "a 1x1 has nothing to part") for name in names]
    skipped += [Skipped(name, "Conv2d", "separable", "a 1x1 has nothing to part") for name in names]
    skipped += [
        Skipped(name, "Conv2d", "pool_first", f"{name[:8]}.relu serves others too") for name in names[:2]
    ]
    skipped += [Skipped("head", "Conv2d", None, "its weight is used elsewhere")]
    lines = [
        line for line in proposals(proposal("2"), skipped=skipped).to_text().splitlines() if ": " in line
    ]
    whole = [line for line in lines if line.startswith("Skipped by")]
    assert whole == [
        "Skipped by every rule: its weight is used elsewhere: head",
        "Skipped by asymmetric, separable: a 1x1 has nothing to part: "
        + ", ".join(names[:6])
        + " and 3 more (9 layers)",
        "Skipped by pool_first: layer0.0.relu serves others too: layer0.0.conv, layer1.0.conv (2 layers; the "
        "others similarly)",
    ]


def test_advice_stands_below_with_the_layers_that_it_is_for():
    advice = [Advice("2", "a kernel larger than its map"), Advice("4", "a kernel larger than its map")]
    assert "Advice: a kernel larger than its map: 2, 4" in proposals(proposal("2"), advice=advice).to_text()


def test_a_model_without_proposals_says_so():
    text = proposals(skipped=[Skipped("0", "Conv2d", None, "it is quantized")]).to_text()
    assert "Proposals: none: no rule applies" in text
    assert "Skipped by every rule: it is quantized: 0" in text
    assert "Rule" not in text
    assert json.loads(proposals().to_json())["proposals"] == []
    assert list(proposals().to_pandas().columns) == [column.name for column in COLUMNS]
    assert proposals().to_markdown()
    assert proposals().to_html()


def test_pandas_has_every_column_one_row_a_proposal_with_numbers_as_numbers():
    found = proposals(proposal("2", race=FAST), proposal("4", error=None), device="x")
    table = found.to_pandas()
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert list(table["name"]) == ["2", "4"]
    assert table["macs_before"].tolist() == [spec().macs] * 2
    assert table["macs_ratio"].tolist() == [one.macs_ratio for one in found]
    assert table["raced_ms_after"].tolist()[0] == 0.5
    assert table["raced_ms_after"].isna().tolist() == [False, True]
    assert table["weight_error"].isna().tolist() == [False, True]
    assert table["recommended"].tolist() == [True, True]
    assert table["receptive_field_after"].tolist() == [(5, 5), (5, 5)]


def test_every_column_is_described_once_and_times_and_bytes_have_units():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    for column in COLUMNS:
        assert column.meaning
        assert (column.unit == "ms") == ("_ms" in column.name), column.name
        assert (column.unit == "bytes") == ("_bytes" in column.name), column.name


def test_csv_has_the_columns_of_pandas_and_no_formula(tmp_path):
    found = proposals(proposal("2", type_name="=cmd()"))
    head, row = found.to_csv().splitlines()
    assert head.split(",") == [column.name for column in COLUMNS]
    assert "'=cmd()" in row
    assert found.to_csv(tmp_path / "p.csv") is None
    assert (tmp_path / "p.csv").read_text() == found.to_csv()


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not in JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict_and_holds_everything(tmp_path):
    found = proposals(
        proposal("2", race=SLOW, error=float("nan")),
        skipped=[Skipped("0", "Conv2d", "separable", "no")],
        advice=[Advice("2", "hm")],
        device="x",
    )
    record = strict(found.to_json())
    assert record["schema"] == SCHEMA == "archcost.proposals/1"
    assert record["total"] == {"params": ANALYSIS.total.params, "macs": ANALYSIS.total.macs}
    (one,) = record["proposals"]
    assert one["weight_error"] is None
    assert one["objection"] == "slower on this machine: 1 ms before, 1.5 ms after"
    assert one["recommended"] is False
    assert one["best"] is False
    assert one["race"]["old_ms"] == 1.0
    assert [step["step"] for step in one["chains"]["2"]] == ["convolution", "convolution"]
    assert record["skipped"] == [{"name": "0", "type": "Conv2d", "rule": "separable", "reason": "no"}]
    assert record["advice"] == [{"name": "2", "text": "hm"}]
    assert record["device"] == "x"
    assert found.to_json(tmp_path / "p.json") is None
    assert strict((tmp_path / "p.json").read_text()) == record


def test_the_records_of_the_json_are_those_that_a_plan_reads():
    found = proposals(proposal("2", race=FAST), proposal("4"))
    record = strict(found.to_json())
    text = json.dumps({"format": "archcost plan", "version": 1, "proposals": record["proposals"]})
    assert archcost.Plan.from_json(text).proposals == found.proposals


def test_markdown_names_the_layer_once_and_escapes_what_would_be_markup():
    found = proposals(proposal("2", rule="a|b"), proposal("2", rank=3))
    lines = found.to_markdown().splitlines()
    assert len([line for line in lines if line.startswith("| 2 ")]) == 1
    assert any(r"a\|b" in line for line in lines if line.startswith("|  "))
    assert any(line.startswith("- Units: ") for line in lines)


def test_html_needs_nothing_else_and_escapes_names():
    page = proposals(proposal("2", shape="<script>alert(1)</script>")).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "<script>" not in proposals(proposal("2", shape="<script>alert(1)</script>"))._repr_html_()


def test_print_is_the_table_and_needs_no_model():
    own = net()
    analysis = archcost.analyze(own, input_size=(1, 3, 16, 16))
    del own
    found = Proposals(analysis, (proposal("2"),))
    assert "asymmetric" in str(found)
    assert repr(found) == "<1 Proposals for 1 layers of Sequential; print them for the table>"


def many():
    """Two layers that are alike, by two rules, one of them timed."""
    alike = [proposal(name, error=0.1 * i) for i, name in enumerate(ALIKE[:2], 1)]
    return proposals(*alike, *(proposal(name, rule="separable", rank=3, race=SLOW) for name in ALIKE[:2]))


@pytest.mark.parametrize("options", [{"sort": "weight_error"}, {"top": 4}])
def test_sorted_or_cut_the_rows_are_the_single_proposals(options):
    found = many()
    rows = [line.split()[0] for form in ALIKE for line in rows_of(found.to_text(**options), f"{form} ")]
    assert sorted(rows) == sorted(found.to_pandas(**options)["name"])
    assert len(rows) == len(found)
    assert "and 1 more" in found.to_text()
    assert "and 1 more" not in found.to_text(**options)


def test_all_formats_are_sorted_and_cut_alike():
    found, options = many(), {"sort": "macs_after", "top": 3}
    names = list(found.to_pandas(**options)["name"])
    values = found.to_pandas(**options)["macs_after"].tolist()
    assert values == sorted((one.after.macs for one in found), reverse=True)[:3]
    assert [one["name"] for one in found.to_dict(**options)["proposals"]] == names
    assert [line.split(",")[0] for line in found.to_csv(**options).splitlines()[1:]] == names
    for said in (found.to_text(**options), found.to_markdown(**options), found.to_html(**options)):
        assert "Rows" in said
        assert "3 of 4, by MACs after" in said


def test_columns_are_those_asked_for_people_may_also_have_those_of_data():
    found, asked = many(), ["rule", "macs", "macs_after", "verdict"]
    head = next(line for line in found.to_text(columns=asked).splitlines() if line.startswith("Layer "))
    assert head.split() == ["Layer", "Rule", "MACs", "MACs", "after", "Verdict"]
    assert found.to_csv(columns=["name", "best"]).splitlines()[0] == "name,best"
    assert list(found.to_dict(columns=["name", "best"])["proposals"][0]) == ["name", "best"]
    with pytest.raises(
        archcost.SpecError, match="did you mean 'macs_before' or 'macs_after' or 'macs_ratio'"
    ):
        found.to_pandas(columns=["macs"])


@pytest.mark.parametrize("made", [many, lambda: rewritten()])
def test_what_has_no_levels_takes_no_depth(made):
    for way in ("to_text", "to_csv", "to_json"):
        with pytest.raises(archcost.SpecError, match="has no levels of modules"):
            getattr(made(), way)(depth=1)


def test_proposals_are_saved_and_read_back(tmp_path):
    found = proposals(
        *many(),
        proposal("0", error=float("nan"), in_channels=3),
        skipped=[Skipped("0", "Conv2d", None, "no")],
        advice=[Advice("2", "hm")],
        device="x",
    )
    found.save(tmp_path / "p.json")
    again = archcost.load_result(tmp_path / "p.json")
    assert str(again) == str(found)
    assert again.to_json() == found.to_json()
    assert again[:4] == found[:4]
    assert archcost.Plan(again.best(["separable"])) == archcost.Plan(found.best(["separable"]))
    with pytest.raises(archcost.ModelError, match="the model is gone"):
        again.measured(seconds=1)


# What a rewrite did.


class Small(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.a = nn.Conv2d(3, middle, 3, padding=1)
        self.b = nn.Conv2d(middle, 4, 3, padding=1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def rewritten(outcomes=(), skipped=(), inplace=False):
    from archcost.rewriting.plan.plan import Applied, Plan
    from archcost.rewriting.rewritten import Rewritten

    torch.manual_seed(0)
    old, new = Small(16), Small(4)
    inputs = torch.randn(1, 3, 8, 8)
    return Rewritten(
        model=new,
        plan=Plan(one.proposal for one in outcomes),
        before=archcost.analyze(old, inputs),
        outcomes=tuple(outcomes),
        skipped=tuple(skipped),
        inputs=inputs,
        original=None if inplace else old,
        applied=Applied(new),
    )


def test_totals_stand_before_and_after_with_their_ratio():
    found = rewritten()
    text = found.to_text()
    old, new = found.before.total, found.after.total
    line = next(line for line in text.splitlines() if line.startswith("Params"))
    assert line.split() == ["Params", f"{old.params:,}", f"{new.params:,}", f"{new.params / old.params:.2f}x"]
    for name in ("MACs", "Activations", "Peak memory", "Weighted depth", "Non-linearities"):
        assert any(line.startswith(name) for line in text.splitlines()), name
    assert f"max |new - old| / max |old| is {found.output_error:.3f} on the analysed inputs" in text


def test_every_new_layer_has_its_errors():
    one = proposal("2", error=0.25, output_error=0.125)
    text = rewritten([Outcome(one, 0.5, (0.0625, 0.03125), None)]).to_text()
    line = next(line for line in text.splitlines() if line.startswith("2 "))
    for part in (
        "8 -> 8, 5x5",
        "asymmetric",
        "rank 4",
        f"{one.macs_ratio:.2f}x",
        "0.250",
        "0.062",
        "0.031",
        "0.500",
    ):
        assert part in line, part
    without = rewritten([Outcome(one, 0.5, None, None)]).to_text()
    assert "0.125" in next(line for line in without.splitlines() if line.startswith("2 "))
    assert "after refit" not in without


def test_layers_that_are_slower_here_are_warned_of_first():
    found = rewritten([Outcome(proposal("2", race=SLOW), None, None, None)])
    notes = found.to_text().split("\n\n")[-1].splitlines()
    assert notes[0] == "Slower: 2 by asymmetric is slower on this machine: 1 ms before, 1.5 ms after"
    assert "- Slower: 2 by asymmetric" in found.to_markdown()


@pytest.mark.parametrize(
    ("race", "warns", "said"),
    [
        (SLOW, True, "0.66x: 1.00 ms before, 1.50 ms after"),
        (FAST, False, "2.00x: 1.00 ms before, 0.500 ms after"),
        (dataclasses.replace(SLOW, new_ms=0.9), False, "rounds and medians disagree"),
    ],
)
def test_a_race_of_the_whole_model_is_reported_and_warned_of_where_it_was_lost(
    monkeypatch, race, warns, said
):
    monkeypatch.setattr("archcost.rewriting.racing.raced", lambda *args, **options: race)
    found = rewritten()
    assert "Speed" not in found.to_text()
    assert found.race() is race is found.speed
    text = found.to_text()
    assert said in text
    assert ("Slower: the new model takes 1.50 ms on this machine, the old one 1.00 ms" in text) == warns


def test_a_rewrite_in_place_says_that_it_could_not_be_compared():
    assert "not compared: the model was changed in place" in rewritten(inplace=True).to_text()


def test_what_was_taken_back_stays_with_the_reason():
    text = rewritten(skipped=[Skipped("2", "Conv2d", "separable", "undone: the shapes differ")]).to_text()
    assert "Rewritten: no layer" in text
    assert "Skipped by separable: undone: the shapes differ: 2" in text


def test_the_markdown_of_a_rewrite_has_both_tables():
    lines = rewritten([Outcome(proposal("2"), 0.5, None, None)]).to_markdown().splitlines()
    assert any(line.startswith("| Total") for line in lines)
    assert any(line.startswith("| New layer") for line in lines)
    assert any(line.startswith("| 2 ") for line in lines)


def test_printing_a_rewrite_uses_the_width_that_it_is_given():
    found = rewritten([Outcome(proposal("2"), 0.5, None, None)])
    assert max(map(len, found.to_text(width=70).splitlines())) <= 70
    assert str(found).startswith("Small, rewritten")


def test_options_are_said_in_words():
    from archcost.rewriting.reports.columns import options_text

    assert (
        options_text({"rank_in": 3, "kernels": [3, 1], "first": "rows"})
        == "rank in 3, kernels 3x1, first rows"
    )


def refitted():
    one = proposal("2", error=0.25, output_error=0.125, race=FAST)
    outcomes = [
        Outcome(one, 0.5, (0.0625, 0.03125), None),
        Outcome(proposal("4"), None, None, None, "no data"),
    ]
    found = rewritten(outcomes, [Skipped("0", "Conv2d", "merge", "no")])
    object.__setattr__(found, "speed", SLOW)
    return found


def test_data_of_a_rewrite_have_one_row_a_new_layer():
    found = refitted()
    table = found.to_pandas()
    assert list(table.columns) == [column.name for column in LAYERS]
    assert list(table["name"]) == ["2", "4"]
    assert table["error_on_data"].tolist()[0] == 0.0625
    assert table["error_after_refit"].tolist()[0] == 0.03125
    assert table["error_on_input"].isna().tolist() == [False, True]
    assert found.to_csv().splitlines()[0].split(",") == list(table.columns)
    assert list(found.to_pandas(sort="speedup", top=1)["name"]) == ["2"]
    names = [column.name for column in LAYERS]
    assert len(set(names)) == len(names)
    assert all(column.meaning for column in LAYERS)


def test_the_json_of_a_rewrite_is_strict_and_holds_everything():
    found = refitted()
    record = strict(found.to_json())
    assert record["schema"] == "archcost.rewritten/1"
    assert record["before"]["macs"] == found.before.total.macs
    assert record["after"]["depth"] == found.after.total.depth
    assert record["output_error"] == found.output_error
    assert record["speed"] == dataclasses.asdict(SLOW)
    assert [one["error_after_refit"] for one in record["outcomes"]] == [0.03125, None]
    assert [one["unfitted"] for one in record["outcomes"]] == [None, "no data"]
    assert record["skipped"] == [{"name": "0", "type": "Conv2d", "rule": "merge", "reason": "no"}]
    assert archcost.Plan.from_json(json.dumps(record["plan"])) == found.plan


def test_columns_and_order_of_a_rewrite_are_those_asked_for():
    found = refitted()
    head, _, *lines = found.to_text(columns=["macs_saved"], sort="name").split("New layer")[1].splitlines()
    assert head.split() == ["Saved", "%"]
    assert [line.split()[0] for line in lines[:2]] == ["2", "4"]
    assert found.to_text(columns=["macs_saved"]).startswith("Small, rewritten")
    assert "Weighted depth" in found.to_text(columns=["macs_saved"], top=1)
    assert "<table" in found.to_html()


def test_a_rewrite_is_saved_without_its_models(tmp_path):
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(1, 3, 16, 16)
    options = {"batches": [x], "store": False, "progress": False}
    found = archcost.rewrite(model, x, rules=["asymmetric", "merge"], **options)
    found.save(tmp_path / "new.json")
    again = archcost.load_result(tmp_path / "new.json")
    assert str(again) == str(found)
    assert repr(again) == repr(found)
    assert again.to_json() == found.to_json()
    assert str(again.comparison) == str(found.comparison)
    assert again.plan.apply(model)(x).shape == found.model(x).shape
    for wrong in (lambda: again.model, lambda: again.original, again.undo, again.race):
        with pytest.raises(archcost.ModelError, match=r"^Sequential: a saved rewrite has no .* plan.apply"):
            wrong()
    assert not hasattr(again, "models")
    assert str(pickle.loads(pickle.dumps(again))) == str(found)
