"""archcost diff: markdown for a pull request, limits that fail a job, one clear line for bad input."""

import json

import pytest
from torch import nn

import archcost
from archcost.cli import main


def net(width=8, blocks=2):
    convolutions = (nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Sequential(*convolutions), nn.ReLU())


@pytest.fixture(autouse=True)
def saved(tmp_path, monkeypatch):
    """Two saved analyses in the working directory, and no GitHub around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name, model in {"before": net(), "after": net(blocks=3)}.items():
        archcost.analyze(model, input_size=(1, 3, 16, 16)).save(f"{name}.json")


def run(capsys, *arguments):
    code = main(["diff", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_comment_for_a_pull_request(capsys):
    code, out, err = run(
        capsys,
        "before.json",
        "after.json",
        "--format",
        "markdown",
        "--fail-on",
        "macs>+5%",
        "--fail-on",
        "params>1M",
    )
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[4].startswith("❌ macs>+5%: MACs ")
    assert lines[6].startswith("Why: 1.2 (Conv2d) added: +113 k MACs (+42.1 %)")
    macs = next(line for line in lines if line.startswith("| MACs"))
    assert "▲ +42.1 %" in macs
    assert "❌ at most +5%" in macs
    assert out.index("▲ +42.1 %") < out.index("<details><summary>1 change by module</summary>\n\n| Module")
    assert out.index("| All") < out.index("</details>")


def test_exit_codes_and_where_a_broken_limit_is_said(capsys, tmp_path):
    assert run(capsys, "before.json", "after.json")[0] == 0
    assert run(capsys, "before.json", "after.json", "--fail-on", "macs>+50%")[0] == 0
    code, out, err = run(capsys, "before.json", "after.json", "--fail-on", "macs>+5%", "--format", "json")
    assert (code, json.loads(out)["limits"][0]["holds"]) == (1, False)
    assert err.startswith("archcost: macs>+5%: MACs ")
    code, out, err = run(
        capsys,
        "before.json",
        "after.json",
        "--fail-on",
        "macs>+5%",
        "-o",
        "comment.md",
        "--format",
        "markdown",
    )
    assert (code, out) == (1, "")
    assert err.startswith("archcost: wrote comment.md\narchcost: macs>+5%: ")
    assert (tmp_path / "comment.md").read_text(encoding="utf-8").startswith("**a: Sequential**")


def test_limits_before_the_models_are_read_as_limits(capsys):
    assert (
        run(capsys, "--fail-on", "macs>+5%", "--fail-on", "params>+1M", "before.json", "after.json")[0] == 1
    )


def test_the_summary_of_a_github_job_is_added_to(capsys, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("of another step\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = run(capsys, "before.json", "after.json")
    assert code == 0
    assert "<details>" not in out
    written = summary.read_text(encoding="utf-8")
    assert written.startswith("of another step\n**a: Sequential**")
    assert "<details>" in written
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    code, _, err = run(capsys, "before.json", "after.json")
    assert (code, err.count("\n")) == (2, 1)
    assert "GITHUB_STEP_SUMMARY" in err


@pytest.mark.parametrize("form", ["table", "markdown", "json", "csv", "html"])
def test_every_format(capsys, form):
    code, out, _ = run(capsys, "before.json", "after.json", "--format", form, "--depth", "1")
    assert code == 0
    assert "1.2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["before.json"], "give a second model, or a git revision to compare with: before.json@main"),
        (["before.json", "after.json", "--fail-on", "macs>+5x"], "cannot read '5x'"),
        (["before.json", "after.json", "--fail-on", "macs"], "'macs>4.2G', in quotes"),
        (["before.json", "after.json", "--input-size", "1,3,8,8"], "holds an Analysis with its inputs"),
        (["before.json", "missing.json"], "missing.json cannot be read as a saved result: no such file"),
        (["torchvision:resnet18@main"], "torchvision has no revisions here"),
        (["net.py:Net@main"], "is in no git repository"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_published_model_is_analysed_here_beside_a_saved_one(capsys):
    code, out, _ = run(capsys, "before.json", "torchvision:squeezenet1_1", "--input-size", "1,3,64,64")
    assert code == 0
    assert "the inputs differ: a has 1x3x16x16 float32, b has 1x3x64x64 float32" in out
