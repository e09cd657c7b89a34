"""Commands that a report prints, to be run as they stand."""

from __future__ import annotations

import re
import shlex

from archcost.analysis.traced import TracedModel
from archcost.trace.graph import refs

__all__ = ["command_text", "is_spec"]

_SPEC = re.compile(r"[^-=:\s][^=:]*:[^=:]+")


def is_spec(name: str) -> bool:
    """Whether the name of a model is what a command can load."""
    return _SPEC.fullmatch(name) is not None


def command_text(analysis: TracedModel, command: str, *options: str) -> str:
    """A command for the model of an analysis; ``SPEC`` where the model came from Python."""
    spec = shlex.quote(analysis.name) if is_spec(analysis.name) else "SPEC"
    shapes = [ref.shape for ref in refs(analysis.trace.inputs)]
    # An input that was not assumed has to be given again.
    given = not any(note.startswith("input size ") for note in analysis.notes) and spec != "SPEC"
    sizes = [f"--input-size {','.join(map(str, shape))}" for shape in shapes if shape] if given else []
    return " ".join(["archcost", command, spec, *sizes, *options])
