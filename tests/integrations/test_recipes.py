"""The recipes of docs/integrations.md run as they stand, each in a folder of its own."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
RECIPES = {
    name: found[1]
    for name, text in SECTIONS.items()
    if (found := re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
}
PACKAGES = {
    "Lightning": ["lightning"],
    "TensorBoard": ["tensorboard"],
    "MLflow": ["mlflow"],
    "Weights & Biases": ["wandb"],
    "timm and Hugging Face": ["timm", "transformers"],
}


def test_every_recipe_is_here():
    assert list(RECIPES) == list(PACKAGES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_runs(name, tmp_path, monkeypatch, capsys):
    for package in PACKAGES[name]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "recipe"}
    exec(compile(RECIPES[name], f"{name} in docs/integrations.md", "exec"), names)
    if name == "Lightning":
        assert "archcost/macs: " in next(tmp_path.rglob("hparams.yaml")).read_text()
    elif name == "timm and Hugging Face":
        assert capsys.readouterr().out.splitlines() == [
            """("input size 1x1x224x224 from the model's pretrained_cfg and first layer",)""",
            """("input pixel_values 1x3x96x96 assumed from the model's config",)""",
            """("inputs input_ids 1x77, pixel_values 1x3x224x224 assumed from the model's config",)""",
        ]
    else:
        assert names["analysis"].total.macs == 1814073344
        assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_the_lines_of_the_notebook_run(tmp_path, monkeypatch):
    pytest.importorskip("IPython", reason="IPython is not installed")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    lines = PAGE.partition("```ipython\n")[2].partition("```")[0]
    shell = InteractiveShell.instance()
    try:
        with capture_output() as captured:
            shell.run_cell(lines).raise_error()
        assert len(captured.outputs) == lines.count("\n%archcost") == 5
        assert shell.user_ns["analysis"].total.macs == 1814073344
    finally:
        shell.history_manager.end_session()
        InteractiveShell.clear_instance()
