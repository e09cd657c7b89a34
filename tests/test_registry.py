"""What all four registries share: whose entry wins, plugins that work and that do not, what is temporary."""

import json
import sys

import pytest
import torch
from torch import nn

import archcost
from archcost import ArchcostError, SpecError, paths, rewriting
from archcost.cli import main
from archcost.cost import registry as counting
from archcost.fields import registry as dependence
from archcost.paths.algorithms.direct import DirectPath
from archcost.paths.registry import table as paths_table
from archcost.registry import NameRegistry, OperatorRegistry, candidates
from archcost.rewriting import rule
from archcost.rewriting.rules.merge import Merge

TABLES = {
    "archcost.rules": counting.table,
    "archcost.field_rules": dependence.table,
    "archcost.paths": paths_table,
    "archcost.rewrites": rule.table,
}
ENTRY = {
    "archcost.rules": ("aten.relu", (lambda op: (1, 0), "other")),
    "archcost.field_rules": ("aten.relu", (lambda op, see: None, False)),
    "archcost.paths": ("direct", DirectPath()),
    "archcost.rewrites": ("merge", Merge()),
}
REGISTERS = {
    "archcost.rules": "archcost.rules.counting_rule('aten.relu', 'their::op')(lambda op: (11, 0))",
    "archcost.field_rules": """
archcost.rules.field_rule('aten.relu', 'their::op')(lambda op, see: see(op.args[0]))
""",
    "archcost.paths": """
from archcost.paths.algorithms.direct import DirectPath
for name in ("direct", "theirs"):
    archcost.paths.register(type("Theirs", (DirectPath,), {"name": name})())
""",
    "archcost.rewrites": """
from archcost.rewriting.rules.merge import Merge
for name in ("merge", "theirs"):
    archcost.rewriting.register(type("Theirs", (Merge,), {"name": name})())
""",
}
X = torch.zeros(1, 3, 8, 8)


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package as pip would leave it, with an entry point in one group; its table looks at it anew."""
    monkeypatch.syspath_prepend(tmp_path)
    opened = []

    def install(group, code):
        (tmp_path / "their_package.py").write_text(f"import archcost\n{code}\n")
        info = tmp_path / "their_package-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nmine = their_package\n")
        opened.append(TABLES[group].temporarily(fresh=True))
        opened[-1].__enter__()
        return TABLES[group]

    yield install
    for one in opened:
        one.__exit__(None, None, None)
    sys.modules.pop("their_package", None)


def note_of(group, error="ModuleNotFoundError: No module named 'nothing_of_that_name'"):
    plugin = f"{TABLES[group].what} of their-package (entry point 'mine' of {group})"
    return f"the {plugin} cannot be loaded: {error}; update or uninstall it"


@pytest.mark.parametrize("group", TABLES)
def test_a_plugin_replaces_archcosts_own_and_the_user_replaces_it(installed, group):
    own = dict(TABLES[group].entries)
    name, entry = ENTRY[group]
    table = installed(group, REGISTERS[group])
    assert len(table.entries) == len(own) + 1
    assert list(table.entries)[: len(own)] == list(own)
    theirs = table.entries[name]
    assert theirs is not own[name]
    with table.temporarily():
        table._add(name, entry)
        assert table.entries[name] is entry
    assert table.entries[name] is theirs
    with table.temporarily(fresh=True):
        table._add(name, entry)  # before the first look-up
        assert table.entries[name] is entry
    assert table.broken == ()


@pytest.mark.parametrize("group", TABLES)
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise KeyError('of\\n two lines')", r"KeyError: 'of\n two lines'"),
        ("raise ValueError('of\\n two lines')", "ValueError: of two lines"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            "archcost.paths.register(3)",
            "ArchcostError: register: 3 is not an instance of ExecutionPath with a name",
        ),
    ],
)
def test_nothing_of_a_broken_plugin_is_there_but_its_name(installed, group, code, error):
    own = dict(TABLES[group].entries)
    table = installed(group, f"{REGISTERS[group]}\n{code}")
    assert dict(table.entries) == own
    (broken,) = table.broken
    assert (broken.group, broken.package, broken.entry) == (group, "their-package", "mine")
    assert broken.error.startswith(error)
    assert table.notes == (note_of(group, broken.error),)


def test_a_module_that_adds_to_several_tables_leaves_nothing_where_it_breaks(installed):
    fields, counts = dict(dependence.table.entries), dict(counting.table.entries)
    table = installed(
        "archcost.rules", f"{REGISTERS['archcost.rules']}\n{REGISTERS['archcost.field_rules']}\n1 / 0"
    )
    assert table.broken[0].error == "ZeroDivisionError: division by zero"
    assert (dict(dependence.table.entries), dict(table.entries)) == (fields, counts)


def test_a_module_that_adds_to_several_tables_gives_way_to_the_user_in_each(installed):
    with dependence.table.temporarily():
        mine = archcost.rules.field_rule("aten.relu")(lambda op, see: None)
        table = installed(
            "archcost.rules", f"{REGISTERS['archcost.rules']}\n{REGISTERS['archcost.field_rules']}"
        )
        assert table.broken == ()
        assert "their.op" in dependence.table.entries
        assert dependence.rule_for("aten.relu.default") is mine


def test_what_is_loaded_inside_for_the_first_time_stays(warm):
    code = """
from archcost.cost.registry import table
with table.temporarily(fresh={}):
    inside = len(table.entries)
print(len(table.entries) == inside > 400)
"""
    for fresh in (False, True):
        done = warm.run(code.format(fresh))
        assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("group", ["archcost.rules", "archcost.field_rules"])
def test_an_analysis_goes_on_and_names_broken_rules(installed, group):
    before = archcost.analyze(net(), X)
    installed(group, "import nothing_of_that_name")
    after = archcost.analyze(net(), X)
    assert after.notes == (*before.notes, note_of(group))
    assert after.total == before.total
    assert after.fields.at("2").size == (5, 5)
    assert note_of(group) in after.to_text()
    assert note_of(group) in json.loads(after.to_json())["notes"]
    assert archcost.analyze(net(), X).notes == after.notes


def test_measure_goes_on_and_names_broken_paths(installed):
    installed("archcost.paths", "import nothing_of_that_name")
    found = archcost.measure(
        net(), X, seconds=1, store=False, paths=["native"], in_context=False, progress=False
    )
    assert note_of("archcost.paths") in found.notes
    assert f"Note: {note_of('archcost.paths')}" in " ".join(found.to_text().split())


def test_the_list_of_paths_names_broken_ones(installed, capsys):
    assert main(["paths", "--format", "json"]) == 0
    before = json.loads(capsys.readouterr().out)
    installed("archcost.paths", "import nothing_of_that_name")
    assert main(["paths", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**before, "notes": [note_of("archcost.paths")]}
    assert main(["paths"]) == 0
    assert f"Note: {note_of('archcost.paths')}" in " ".join(capsys.readouterr().out.split())


def test_propose_and_rewrite_go_on_and_name_broken_rules(installed):
    before = archcost.propose(net(), X, store=False, progress=False)
    installed("archcost.rewrites", "import nothing_of_that_name")
    found = archcost.propose(net(), X, store=False, progress=False)
    assert len(found) == len(before)
    assert (before.notes, found.notes) == ((), (note_of("archcost.rewrites"),))
    assert f"Note: {note_of('archcost.rewrites')}" in found.to_text()
    done = archcost.rewrite(net(), X, rules=["asymmetric"], store=False, progress=False)
    assert done.notes == found.notes
    assert note_of("archcost.rewrites") in done.to_text()


@pytest.mark.parametrize(
    ("group", "get"), [("archcost.paths", paths.get), ("archcost.rewrites", rewriting.get)]
)
def test_a_name_that_is_not_found_may_be_one_that_could_not_be_loaded(installed, group, get):
    installed(group, "import nothing_of_that_name")
    with pytest.raises(SpecError) as found:
        get("theirs")
    assert str(found.value).startswith(f"no {TABLES[group].noun} is called 'theirs'; there are ")
    assert str(found.value).endswith(f"; {note_of(group)}")


@pytest.mark.parametrize("group", TABLES)
def test_what_is_temporary_is_gone_also_after_an_error(group):
    table, (name, entry) = TABLES[group], ENTRY[group]
    before = dict(table.entries)

    def fails():
        with table.temporarily():
            table._add(name, entry)
            table._add("their.op", entry)
            assert table.entries[name] is table.entries["their.op"] is entry
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert dict(table.entries) == before


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A package with three files that hold entries, and one that holds none."""
    folder = tmp_path / "their_home"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "zebra.py").write_text(
        "import pathlib\nENTRIES, ORDER = (pathlib.Path('z1'), pathlib.Path('z2')), 1\n"
    )
    (folder / "apple.py").write_text("import pathlib\nENTRIES, ORDER = (pathlib.Path('a'),), 2\n")
    (folder / "last.py").write_text("import pathlib\nENTRIES = (pathlib.Path('l'),)\n")
    (folder / "shared.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_home"
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_home"]:
        del sys.modules[name]


def named(home):
    from pathlib import Path

    return NameRegistry(Path, "entry", "entries", home=home, group="of.nobody", holds="ENTRIES")


def test_every_file_of_the_folder_is_looked_at_and_its_order_kept(home):
    assert named(home).available() == ("z1", "z2", "a", "l")


def test_a_file_that_cannot_be_imported_is_an_error_each_time(home, tmp_path):
    file = tmp_path / home / "shared.py"
    table = named(home)
    file.write_text("import nothing_of_that_name")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            table.available()
    file.write_text("")
    assert table.available() == ("z1", "z2", "a", "l")


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("aten.add.Tensor", ("aten.add.Tensor", "aten.add")),
        ("aten.add_.Tensor", ("aten.add_.Tensor", "aten.add.Tensor", "aten.add_", "aten.add")),
        ("aten.add.out", ("aten.add.out", "aten.add.default", "aten.add.Tensor", "aten.add")),
        ("aten.add.Scalar_out", ("aten.add.Scalar_out", "aten.add.Scalar", "aten.add")),
        ("mylib.op", ("mylib.op",)),
    ],
)
def test_operators_are_looked_up_most_special_first(home, name, order):
    assert tuple(dict.fromkeys(candidates(name))) in (order, (*order, f"{name}.op"))
    table = OperatorRegistry("entries", home=home, group="of.nobody")
    for one in reversed(order):
        table.register("entry", (one.replace(".", "::", 1),), lambda function: function, "")(one)
        assert table.find(name) == one


@pytest.mark.parametrize("names", [(), (3,)])
def test_an_operator_has_a_name(home, names):
    table = OperatorRegistry("entries", home=home, group="of.nobody")
    with pytest.raises(ArchcostError, match=r'^entry: name the operators, as in @entry\("mylib::op"\)$'):
        table.register("entry", names, lambda function: function, "")
