"""The pages of the site that are made from the code hold all of it, and every page stands in one place."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import archcost
from archcost.cli import COMMANDS

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference(generated):
    text = generated.api()
    for room, names in generated.public_names().items():
        module = getattr(archcost, room) if room else archcost
        assert set(names) | set(generated.ROOMS) >= set(module.__all__) - {"__version__"}, room
        for name in names:
            # A name of several rooms stands in the first.
            assert f".{name}\n" in text, f"{room}.{name}"
    rooms = {name for name in archcost.__all__ if isinstance(getattr(archcost, name), ModuleType)}
    assert rooms == set(generated.ROOMS)


def test_every_command_and_option_is_in_the_reference(generated):
    text = generated.command_line()
    for command in COMMANDS:
        assert f"\n## {command.__name__.rpartition('.')[2]}\n" in text
    for option in ("--input-size N,C,H,W", "--force", "--plot FILE", "### store prune"):
        assert option in text


def test_columns_of_every_result_are_in_the_reference(generated):
    text = generated.columns()
    for name in ("macs", "peak_memory_bytes", "published_gmacs", "low_kernels", "macs_after"):
        assert f"| `{name}` |" in text, name


def test_every_rule_and_finding_is_in_the_reference(generated):
    from archcost import rewriting
    from archcost.integrations.checking.codes import CODES

    text = generated.rules()
    for name in rewriting.available():
        assert f"| `{name}` | " in text
    for code in CODES:
        assert f"\n### {code} " in text
    assert "18/25" in text


def test_every_schema_is_in_the_reference(generated):
    text = generated.schemas()
    for name in ("analysis/1", "measured/1", "spectrum/1", "steps/1", "proposals/1"):
        assert f"## archcost.{name}\n\n" in text, name
    assert "- `modules`: a list, parents before children" in text


def test_every_page_stands_in_one_section_and_a_new_one_is_a_guide(generated, tmp_path):
    found = generated.sections(DOCS)
    listed = [page for pages in found.values() for page in pages]
    assert len(listed) == len(set(listed))
    assert {page.stem for page in DOCS.glob("*.md")} == {*listed, "index"}
    assert all((DOCS / f"{page}.md").exists() for page in listed)
    (tmp_path / "new.md").touch()
    assert generated.sections(tmp_path)["guides"][-1] == "new"
