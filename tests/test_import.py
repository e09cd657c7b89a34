"""Importing archcost stays light; each test comes with a proof that it can fail."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "pandas", "numpy", "fvcore", "rich", "scipy", "tabulate", "distributed")

PROBE = """
import json, sys
{statement}
print(json.dumps(sorted(set(sys.modules) & set({heavy!r}))))
"""


def imported(statement: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after ``statement``."""
    code = PROBE.format(statement=statement, heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


LIGHT = [
    "import archcost",
    "import archcost; archcost.ConvSpec(3, 96, 11, stride=4, input_size=(227, 227)).macs",
    "import archcost; archcost.ArchcostError, archcost.analysis, archcost.plot, archcost.fleet",
    "import archcost; dir(archcost)",
    "import archcost.cli",
    "from archcost.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    "from archcost.cli import main\ntry: main(['analyze', '--help'])\nexcept SystemExit: pass",
]


@pytest.mark.parametrize("statement", LIGHT)
def test_importing_and_asking_for_help_load_nothing_heavy(statement):
    assert imported(statement) == []


def test_the_probe_sees_a_heavy_import():
    assert imported("import archcost, tabulate") == ["tabulate"]
    assert "torch" in imported("import archcost; archcost.analyze; import archcost.trace.run")


def test_scipy_is_not_loaded_before_something_is_predicted():
    assert "scipy" not in imported("import archcost.latency.measure, archcost.latency.prediction.predictor")
    law = "from archcost.latency.prediction.fitting import nonnegative_least_squares as fit"
    assert "scipy" in imported(f"import numpy\n{law}\nfit(numpy.eye(2), numpy.ones(2))")


def test_help_runs_few_lines_of_python():
    """0.3 s of start-up is held by what makes it: the number of modules loaded, which no noise changes."""

    def count(arguments: list[str]) -> int:
        code = (
            "import sys\nfrom archcost.cli import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\nprint(len(sys.modules))"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return int(out.splitlines()[-1])

    bare = subprocess.run(
        [sys.executable, "-c", "import argparse, sys; print(len(sys.modules))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert count(["--help"]) < int(bare) + 80
    # The proof that it can fail: pandas alone loads more than that.
    pandas = subprocess.run(
        [sys.executable, "-c", "import argparse, pandas, sys; print(len(sys.modules))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert int(pandas) > int(bare) + 80


def test_every_public_name_exists_and_has_a_docstring():
    import archcost

    for name in archcost.__all__:
        value = getattr(archcost, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="archcost attribute nonsense"):
        _ = archcost.nonsense


def test_the_types_are_shipped():
    """Marked by py.typed, and in the stubs from which the packages read their public names."""
    from importlib.resources import files

    folder = files("archcost")
    assert folder.joinpath("py.typed").is_file()
    for room in ("", "analysis", "fleet", "learn", "paths", "plot", "rewriting"):
        assert folder.joinpath(room, "__init__.pyi").is_file(), room


def test_crosscheck_is_beside_compare_and_rules_have_a_room():
    import archcost

    assert archcost.analysis.crosscheck(torch_relu(), input_size=(1, 3)).agrees
    assert archcost.analysis.compare is archcost.compare
    assert {"Count", "counting_rule", "field_rule"} <= set(archcost.rules.__all__)
    for name in ("crosscheck", "CrossCheck", "counting_rule", "field_rule", "Count"):
        assert not hasattr(archcost, name)


def torch_relu():
    from torch import nn

    return nn.Sequential(nn.Linear(3, 4), nn.ReLU())


def test_no_public_function_bears_the_name_of_a_module():
    import pkgutil

    import archcost

    modules = {module.name for module in pkgutil.iter_modules(archcost.__path__)}
    assert modules & set(archcost.__all__) == {
        "analysis",
        "fleet",
        "learn",
        "paths",
        "plot",
        "rewriting",
        "rules",
    }  # rooms, and no functions


def circles(graph):
    """The modules that reach each other, by groups of two and more."""
    import networkx

    imports = networkx.DiGraph()
    for module in graph.modules:
        imports.add_edges_from((module, other) for other in graph.find_modules_directly_imported_by(module))
    return [sorted(found) for found in networkx.strongly_connected_components(imports) if len(found) > 1]


def test_no_modules_import_each_other_in_a_circle():
    """Lazy and type-only imports count; that rooms import one way only is held by `lint-imports`."""
    import grimp

    graph = grimp.build_graph("archcost", exclude_type_checking_imports=False, cache_dir=None)
    assert circles(graph) == []
    graph.add_import(importer="archcost.trace.graph", imported="archcost.analysis.analysis")
    assert "archcost.cost.costs" in circles(graph)[0]  # the proof that it can fail
