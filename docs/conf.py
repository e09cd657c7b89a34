"""The site: ``sphinx-build -W --keep-going docs docs/_build/html``, after ``pip install -e ".[docs]"``."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402

import archcost  # noqa: E402

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"], os.environ["JUPYTER_COLUMNS"] = "80", "97"  # of usages; of what cells print: the page

project, author, copyright = "archcost", "the archcost authors", "the archcost authors"
release = version = archcost.__version__
extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton",
]  # fmt: skip
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "archcost"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
templates_path: list[str] = []
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_heading_anchors = 3
# Pages link to files of the repository as they lie on disk, for readers of the repository.
suppress_warnings = ["myst.xref_missing"]

nb_execution_mode = os.environ.get("ARCHCOST_DOCS_RUN", "auto")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_code_prompt_show = "Show the answer"
nb_code_prompt_hide = "Hide the answer"
nb_output_stderr = "remove"
nb_execution_show_tb = True

smartquotes = False
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False


def _as_text(app, what, name, obj, options, lines):
    """Bars and stars of docstrings as they stand: |y - exact|, (batch, *spatial)."""
    for at, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"\||(?<![\w*])\*(?=\w)", r"\\\g<0>", part) for part in parts[::2]]
            lines[at] = "".join(parts)


def setup(app):
    """Write the pages that are made from the code, and sort new ones into the guides."""
    generated.write(HERE)
    app.connect("autodoc-process-docstring", _as_text, priority=400)
    app.connect("source-read", generated.fill)
