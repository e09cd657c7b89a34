"""Proposals as tables, pandas, CSV, HTML and strict JSON: alike is one row, slow is marked."""

import dataclasses
import json
import re

import pytest

import archcost
from archcost.rewriting.proposal import Advice, Skipped
from archcost.rewriting.proposals import Proposals
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.reports.columns import COLUMNS
from archcost.rewriting.reports.proposals import SCHEMA
from helpers.proposals import ALIKE, ANALYSIS, FAST, SLOW, net, proposal, proposals, rewritten, spec, strict


def rows_of(text, start):
    """The lines of the table of candidates, the last, whose label begins so."""
    lines = text.splitlines()
    at = max(i for i, line in enumerate(lines) if line.startswith("Layer "))
    return [line for line in lines[at:] if line.startswith(start)]


def test_layers_that_are_alike_share_one_row_with_their_errors_as_a_range():
    found = proposals(*(proposal(name, error=0.1 * i) for i, name in enumerate(ALIKE, 1)))
    (row,) = rows_of(found.to_text(full=True), "2")
    assert row.startswith("2 and 3 more  8 -> 8, 5x5  asymmetric  rank 4")
    assert "0.100 to 0.400" in row
    saved = 100 * sum(one.before.macs - one.after.macs for one in found) / ANALYSIS.total.macs
    assert f" {saved:.1f} " in row
    assert not rows_of(found.to_text(full=True), "4")


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
    assert rows_of(found.to_text(full=True), "2")[0].startswith("2 ")
    assert rows_of(found.to_text(full=True), "4")[0].startswith("4 ")


def test_options_that_name_a_replaced_module_do_not_keep_alike_layers_apart():
    def merged(name, other):
        one = proposal(name)
        chains = {**one.replacement.chains, other: ()}
        return dataclasses.replace(one, replacement=Replacement(chains, exact=True), options={"last": other})

    text = proposals(merged("2", "3"), merged("4", "5")).to_text(full=True)
    assert rows_of(text, "2 and 1 more")


def test_a_layer_has_its_best_proposal_first_and_slow_ones_last_with_both_times():
    found = proposals(
        proposal("2", rule="slow", error=0.01, race=SLOW),
        proposal("2", rule="rough", error=0.5),
        proposal("2", rule="close", error=0.1, race=FAST),
    )
    lines = found.to_text(full=True).splitlines()
    at = max(i for i, line in enumerate(lines) if line.startswith("2 "))
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
    text = found.to_text(full=True)
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
        next(line for line in proposals(one).to_text(full=True).splitlines() if line.startswith("Layer "))
        for one in (proposal("2"), proposal("2", race=FAST))
    )
    for head in ("Raced ms", "Speedup"):
        assert head not in plain
        assert head in timed
    assert "Stored ms" not in timed
    assert "Output error" not in timed


def test_times_of_the_store_stand_beside_those_of_a_race():
    one = proposal("2", race=FAST)
    before = dataclasses.replace(one.before, latency_ms=2.0, best_ms=1.25)
    after = dataclasses.replace(one.after, latency_ms=1.0, best_ms=0.5)
    text = proposals(dataclasses.replace(one, before=before, after=after), device="the store's").to_text(
        full=True
    )
    assert "2.00 -> 1.00" in text
    assert "1.25 -> 0.500" in text
    assert "1.00 -> 0.500" in text
    assert "stored and best times are of single convolutions" in text
    assert "--store :memory: leaves them out): the store's" in text
    assert "on a machine, 2 threads" in text


def test_without_times_the_report_says_how_to_get_them():
    text = proposals(proposal("2")).to_text(full=True)
    assert "Times: not measured; archcost propose --measure, or" in text


def test_no_line_is_wider_than_asked_and_rule_and_verdict_stay_longest():
    skipped = [Skipped("0", "Conv2d", None, "why " * 60)]
    found = proposals(*(proposal(name, race=SLOW) for name in ALIKE), skipped=skipped)
    for width in (60, 80, 120):
        lines = found.to_text(width=width, full=True).splitlines()
        assert max(map(len, lines)) <= width
        assert any("Rule" in line and "Verdict" in line for line in lines)
    assert any(len(line) > 120 for line in found.to_text(full=True).splitlines())
    assert "Columns hidden at this width: Now, " in found.to_text(width=60, full=True)
    assert "Columns hidden at this width" not in found.to_text(full=True)


def test_what_stays_is_grouped_by_reason_with_a_count_and_the_first_names():
    names = [f"layer{i}.0.conv" for i in range(9)]
    skipped = [Skipped(name, "Conv2d", "asymmetric", "a 1x1 has nothing to part") for name in names]
    skipped += [Skipped(name, "Conv2d", "separable", "a 1x1 has nothing to part") for name in names]
    skipped += [
        Skipped(name, "Conv2d", "pool_first", f"{name[:8]}.relu serves others too") for name in names[:2]
    ]
    skipped += [Skipped("head", "Conv2d", None, "its weight is used elsewhere")]
    lines = [
        line
        for line in proposals(proposal("2"), skipped=skipped).to_text(full=True).splitlines()
        if ": " in line
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
    assert "Advice: a kernel larger than its map: 2, 4" in proposals(proposal("2"), advice=advice).to_text(
        full=True
    )


def test_a_model_without_proposals_says_so():
    text = proposals(skipped=[Skipped("0", "Conv2d", None, "it is quantized")]).to_text(full=True)
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
    lines = found.to_markdown().partition("**Candidates**")[2].splitlines()
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
    assert "and 1 more" in found.to_text(full=True)
    assert "and 1 more" not in found.to_text(**options)


def test_all_formats_are_sorted_and_cut_alike():
    found, options = many(), {"sort": "macs_after", "top": 3}
    names = list(found.to_pandas(**options)["name"])
    values = found.to_pandas(**options)["macs_after"].tolist()
    assert values == sorted((one.after.macs for one in found), reverse=True)[:3]
    assert [one["name"] for one in found.to_dict(**options)["proposals"]] == names
    assert [line.split(",")[0] for line in found.to_csv(**options).splitlines()[1:]] == names
    for said in (found.to_text(**options), found.to_markdown(**options), found.to_html(**options)):
        assert "Candidates" in said
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


def test_the_answer_comes_first():
    found = proposals(*(proposal(name, error=0.1 * i, race=FAST) for i, name in enumerate(ALIKE, 1)))
    lines = found.to_text().splitlines()
    assert re.fullmatch(
        r"70.9 % of the MACs saved \(1.79 M -> 522 k\): 4 layers, together 2x faster measured here, "
        r"largest error 0\.400 of a layer's weights \(accuracy suffers until retrained\)",
        lines[1],
    )
    assert lines[3].startswith("Layer")
    (row,) = [line for line in lines if line.startswith("2 ")]
    assert "0.100 to 0.400" in row
    random = dataclasses.replace(found, random_weights=True).to_text().splitlines()
    assert random[0].startswith("Random weights: errors mean nothing until you load yours")
    assert "random" not in random[2]  # said once


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "speed not measured"),
        ({"race": SLOW}, None),
        ({"replacement": Replacement({"2": ()}, exact=True)}, "the same outputs but for rounding"),
        ({"error": None}, "errors not computed"),
    ],
    ids=str,
)
def test_the_answer_names_what_is_not_known(change, said):
    found = proposals(proposal("2", **change))
    lines = found.to_text().splitlines()
    assert (said in lines[1]) if said else ("Proposals: none of them is recommended" in lines)


def test_an_unreliable_time_is_marked_wherever_it_counts():
    doubtful = dataclasses.replace(FAST, disturbed=True)
    found = proposals(proposal("2", race=doubtful))
    text = found.to_text(full=True)
    said = "unreliable: other processes interrupted every sample"
    assert f"together 2x faster measured here ({said})" in text
    assert " ~2.00x " in text
    assert f"~ marks those of 2, {said}: time them again" in text
    assert "~" not in proposals(proposal("2", race=FAST)).to_text(full=True)
    assert found.to_pandas()["disturbed"].tolist() == [True]
    slow = proposal("2", race=dataclasses.replace(SLOW, disturbed=True))
    assert slow.objection == f"slower on this machine: 1 ms before, 1.5 ms after ({said})"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"replacement": Replacement({"2": ()}, exact=True)}, "exact, saves no MACs"),
        ({"rank": 12}, "more MACs than asked"),
        ({"error": 0.9}, ""),
        ({"race": SLOW}, "slower on this machine"),
    ],
    ids=str,
)
def test_the_verdict_says_why_a_proposal_is_not_the_best(change, verdict):
    best, other = proposal("2"), proposal("2", **change)
    if other.exact:
        other = dataclasses.replace(other, after=dataclasses.replace(other.after, macs=other.before.macs))
    found = dataclasses.replace(proposals(best, other), ratio=0.5)
    frame = found.to_pandas()
    assert frame["verdict"].fillna("").tolist() == ["closest weights", verdict]
    assert frame["best"].tolist() == [True, False]


def test_of_many_choices_those_that_save_most_have_a_line():
    found = proposals(*(proposal("2", rank=1 + i) for i in range(4)))
    many = [
        dataclasses.replace(
            one,
            replacement=Replacement({f"layer{i}": ()}, exact=True),
            before=dataclasses.replace(one.before, macs=i),
        )
        for i, one in enumerate(found.proposals * 10)
    ]
    chosen = [dataclasses.replace(one, after=dataclasses.replace(one.after, macs=0)) for one in many]
    text = proposals(*chosen).to_text()
    assert "(20 others)" in text
    assert text.count("\nlayer") == 20
    assert proposals(*chosen).to_markdown().partition("<details>")[0].count("\n") < 60


def test_what_stands_behind_a_layer_is_no_news():
    skipped = [
        Skipped("2", "Conv2d", "merge", "the next layer is relu (ReLU), neither a convolution nor a norm"),
        Skipped("4", "Conv2d", "separable", "it is depthwise already"),
        Skipped("6", "Conv2d", "asymmetric", "its kernel of 3x3 is small"),
        Skipped("8", "Conv2d", "asymmetric", "its kernel of 1x1 is small"),
    ]
    found = proposals(proposal("2"), skipped=skipped)
    every = found.to_text(full=True)
    assert "ReLU" not in every
    assert every.splitlines()[-1] == (
        "Skipped by asymmetric: its kernel of 3x3 is small: 6, 8 (2 layers; the others similarly)"
    )
    first = found.to_text().splitlines()
    assert "Left as they are: it is depthwise already: 4" in first
    assert "relu" in found.to_json()
