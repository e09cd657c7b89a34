"""A rewrite as tables, pandas and strict JSON: before and after, errors, and what was taken back."""

import dataclasses
import json
import pickle

import pytest
import torch

import archcost
from archcost.rewriting.plan.applying import Outcome
from archcost.rewriting.proposal import Skipped
from archcost.rewriting.reports.rewritten import COLUMNS as LAYERS
from helpers.proposals import FAST, SLOW, net, proposal, rewritten, strict


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
        (SLOW, True, "0.66x as fast: 1.00 ms before, 1.50 ms after"),
        (FAST, False, "2.00x as fast: 1.00 ms before, 0.500 ms after"),
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
    from archcost.rewriting.reports.wording import options_text

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
