"""A baseline is small, sorted and read back; what changed is named by block and line."""

import json

import pytest
from torch import nn

import archcost
from archcost import CostError, InputError
from archcost.integrations import baseline
from archcost.integrations.pytest_plugin import _Session

SIZE = (1, 3, 16, 16)


def net(*layers, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *layers)


def analyzed(model, size=SIZE):
    with archcost.recording_sites():
        built = model()
    return archcost.analyze(built, input_size=size)


@pytest.fixture(scope="module")
def small():
    return analyzed(net)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**how):
        return _Session(tmp_path / "b.json", **{"update": False, "ratchet": False, "in_ci": False, **how})

    return make


def test_a_file_is_sorted_a_line_a_measure_and_a_block_and_read_back(tmp_path, small):
    resnet = baseline.record_of(archcost.analyze("torchvision:resnet50"))
    records = {"z": baseline.record_of(small), "résnet": resnet}
    text = baseline.written(records)
    (tmp_path / "b.json").write_text(text, encoding="utf-8")
    assert baseline.read(tmp_path / "b.json") == records
    assert baseline.written(dict(reversed(records.items()))) == text
    assert list(json.loads(text)["models"]) == sorted(records)
    lines = text.splitlines()
    assert '      "macs": 4089184256,' in lines
    assert '      "receptive_field": [427, 427],' in lines
    assert sum('"type": "Bottleneck"' in line for line in lines) == 16
    assert len(resnet.blocks) <= baseline.MOST_BLOCKS
    assert sum(block["macs"] for block in resnet.blocks.values()) == 4089184256
    assert len(text) < 5000


def test_a_file_that_is_no_baseline_is_refused(tmp_path):
    assert baseline.read(tmp_path / "none.json") == {}
    for text in ("{", "[]", '{"schema": "x/1", "models": {}}', '{"schema": "archcost.baseline/1"}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(InputError, match=r"b\.json is not a baseline of archcost .*--archcost-update"):
            baseline.read(tmp_path / "b.json")


def test_nothing_changes_between_two_builds_of_the_same_model(small):
    assert not baseline.changes(baseline.record_of(small), baseline.record_of(analyzed(net)))


def test_changes_say_what_was_and_what_is():
    old, new = (baseline.record_of(analyzed(lambda n=n: net(width=n))) for n in (8, 9))
    assert [str(one) for one in baseline.changes(old, new)] == [
        "kept_for_backward: 8.19 kB -> 9.22 kB (+12.5 %)",
        "macs: 55.3 k -> 62.2 k (+12.5 %)",
        "params: 224 -> 252 (+12.5 %)",
        "peak_memory: 16.4 kB -> 18.4 kB (+12.5 %)",
    ]
    assert not baseline.changes(old, new, rel=0.125)
    assert [one.is_dearer for one in baseline.changes(new, old)] == [False] * 4


@pytest.mark.parametrize(
    ("old", "new", "size", "words"),
    [
        (lambda: net(), lambda: net(width=7), SIZE, "is cheaper than"),
        (lambda: net(), lambda: net(width=9), SIZE, "is dearer than"),
        (lambda: net(), lambda: net(), (2, 3, 16, 16), "has another input than"),
        (
            lambda: nn.Conv2d(3, 3, 3, padding=2, dilation=2),
            lambda: nn.Conv2d(3, 3, 3, padding=1),
            SIZE,
            "sees less than",
        ),
        (
            lambda: nn.Conv2d(3, 3, 3, padding=1),
            lambda: nn.Conv2d(3, 3, 3, padding=2, dilation=2),
            SIZE,
            "sees more than",
        ),
    ],
)
def test_the_verdict_names_the_worst_change(old, new, size, words):
    records = baseline.record_of(analyzed(old)), baseline.record_of(analyzed(new, size))
    assert baseline.verdict(baseline.changes(*records)) == words


class Named(nn.Sequential):
    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def test_blocks_that_were_added_removed_and_changed_are_named_with_the_lines_that_build_them():
    old = analyzed(lambda: Named(a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 8, 3)))
    new = analyzed(lambda: Named(a=nn.Conv2d(3, 8, 3, padding=1), c=nn.Conv2d(8, 8, 3), d=nn.Conv2d(8, 2, 1)))
    changed, removed, added = baseline.explained(baseline.record_of(old), new, "params")
    assert changed.startswith("a (Conv2d) changed: +192 parameters, built at ")
    assert removed == "b (Conv2d) removed: -72 parameters"
    assert added.startswith("d (Conv2d) added: +18 parameters, built at ")
    assert all("test_baseline.py:" in line and "(class" not in line for line in (changed, added))


def test_many_changes_are_cut_with_their_number(small):
    deep = analyzed(lambda: net(*(nn.Conv2d(8, 8, 1) for _ in range(11))))
    lines = baseline.explained(baseline.record_of(small), deep, "macs")
    assert len(lines) == baseline.MOST_EXPLAINED + 1
    assert lines[0].startswith("2 (Conv2d) added: +16.4 k MACs, built at ")
    assert lines[-1] == "and 3 others"


def test_a_new_model_is_written_locally_and_refused_in_ci(session, small):
    with pytest.raises(CostError, match=r"net is not in b\.json: run pytest --archcost-update"):
        session(in_ci=True).check("net", small, 0.0)
    local = session()
    local.check("net", small, 0.0)
    local.write()
    assert local.lines == ["written to b.json: net"]
    assert baseline.read(local.file) == {"net": baseline.record_of(small)}
    again = session(in_ci=True)
    again.check("net", small, 0.0)
    again.write()
    assert again.lines == []


def test_a_dearer_model_fails_until_it_is_written_down(session, small):
    first = session()
    first.check("net", small, 0.0)
    first.check("other", small, 0.0)
    first.write()
    wider = analyzed(lambda: net(width=9))
    with pytest.raises(CostError) as raised:
        session().check("net", wider, 0.1)
    said = str(raised.value).splitlines()
    assert said[0] == "net is dearer than its baseline"
    assert said[2] == "  macs: 55.3 k -> 62.2 k (+12.5 %)"
    assert said[-1] == "  if that is meant, run pytest --archcost-update and commit the file"
    session().check("net", wider, 0.13)
    update = session(update=True)
    update.check("net", wider, 0.0)
    update.write()
    assert update.lines == ["written to b.json: net"]
    assert set(baseline.read(update.file)) == {"net", "other"}
    session(in_ci=True).check("net", wider, 0.0)


def test_a_cheaper_model_is_reported_and_with_the_ratchet_must_be_written_down(session, small):
    first = session()
    first.check("net", small, 0.0)
    first.write()
    slim = analyzed(lambda: net(width=7))
    reported = session()
    reported.check("net", slim, 0.0)
    assert reported.lines[0].startswith("net is cheaper than its baseline: kept_for_backward: 8.19 kB -> ")
    reported.write()
    assert baseline.read(first.file)["net"] == baseline.record_of(small)
    with pytest.raises(CostError, match="net is cheaper than its baseline"):
        session(ratchet=True).check("net", slim, 0.0)


def test_two_models_of_one_name_are_refused(session, small):
    state = session()
    state.check("net", small, 0.0)
    state.check("net", small, 0.0)
    with pytest.raises(InputError, match="two models have the name 'net'"):
        state.check("net", analyzed(lambda: net(width=9)), 0.0)
