"""Every example runs as it stands, and prints what it promises."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMISED = {
    "torchvision_model.py": "11.7 M parameters, 1.81 GMACs, depth 18",
    "two_inputs.py": "made by the model itself",
    "compare_models.py": "times fewer MACs than ResNet-50",
    "counting_rule.py": "with the rule: 72,000 more operations",
    "ones_with_a_zero_corner.py": "exactly the outputs whose window holds it change",
    "receptive_field.py": "3 layers of 3x3 see 7x7, with 55% of the weights of one 7x7",
    "effective_field.py": "drawn: effective.png",
    "time_paths.py": "5x5: 60 M multiplications by the definition, one thread",
    "accelerate.py": "the same outputs: True; the same state_dict: True",
    "measure.py": "every one measured on 1 thread",
    "rewrite_torchvision.py": "outputs within",
    "rewrite_own.py": "asymmetric     0.34x the MACs",
    "rewrite_1d.py": "gained: ",
    "optimize.py": "of other images keep their class",
    "draw_readme.py": "drawn: readme.png",
    "detector_resolution.py": "4 GMACs allow ",
    "microcontroller.py": "width 0.35 at 96 px",
    "training_budget.py": "last stage: ",
    "draw_paths.py": "drawn: direct.png, im2col.png, tiles-*.png, winograd.png, strassen.png",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISED)


# They time, or train: a busy machine takes long.
TIMED = {"rewrite_torchvision.py", "accelerate.py", "time_paths.py", "optimize.py", "rewrite_own.py"}
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in TIMED else name for name in PROMISED]


@pytest.mark.parametrize("name", MARKED)
def test_the_example_runs(name, tmp_path, monkeypatch, warm):
    monkeypatch.chdir(tmp_path)
    done = warm.run(EXAMPLES / name)
    assert done.returncode == 0, done.stderr
    assert PROMISED[name] in done.stdout
