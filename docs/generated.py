"""Pages of the site made from the code: the API, the command line, the columns, and the list of guides."""

import argparse
import contextlib
import importlib
import re
from pathlib import Path

import archcost

ROOMS = ("analysis", "fleet", "learn", "paths", "plot", "rewriting", "rules")
# Where each page stands; one that is named nowhere is a guide.
SECTIONS = {
    "start": ["start", "usage"],
    "guides": [
        *(
            "analysing",
            "slow-layers",
            "what-if",
            "report",
            "measuring",
            "accelerating",
            "rewriting",
            "optimizing",
            "budgets",
            "diff",
            "check",
            "fleet",
            "integrations",
        ),
        *("extending", "counting-rules", "spectrum"),
    ],
    "reference": ["numbers", "layer-arithmetic", "paths"],
    "how": ["how-it-works", "receptive-fields", "benchmarks"],
    "limits": ["limits"],
}


PATHS = (
    "\n\n```{toctree}\n:hidden:\n\n"
    + "\n".join(f"paths/{name}" for name in ("native", "direct", "im2col", "strassen", "winograd", "fft"))
    + "\n```\n"
)


def fill(app, name, source):
    """Put a section's pages in the place of its name in braces."""
    if name == "paths":
        source[0] += PATHS
    for section, pages in sections(Path(app.srcdir)).items():
        source[0] = source[0].replace(f"{{{{{section}}}}}", "\n".join(pages))


def sections(folder: Path) -> dict[str, list[str]]:
    """The pages of each section, in order; those of no section are guides."""
    known = {page for pages in SECTIONS.values() for page in pages}
    new = sorted(page.stem for page in folder.glob("*.md") if page.stem not in {*known, "index"})
    return {**SECTIONS, "guides": [*SECTIONS["guides"], *new]}


def write(folder: Path) -> None:
    """Write the pages below ``reference/``, only where their text is new, so that a build stays short."""
    pages = {
        "api": api(),
        "command-line": command_line(),
        "columns": columns(),
        "rules": rules(),
        "schemas": schemas(),
    }
    for name, text in pages.items():
        file = folder / "reference" / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def public_names() -> dict[str, list[str]]:
    """Every public name by its room, "" for archcost itself; rooms themselves are left out."""
    rooms = {"": archcost, **{room: getattr(archcost, room) for room in ROOMS}}
    return {
        room: [name for name in module.__all__ if name not in (*ROOMS, "__version__")]
        for room, module in rooms.items()
    }


def api() -> str:
    """The public names, each from its docstring; one that several rooms have stands once."""
    out = [
        "# The Python API",
        "",
        "Every public name. Nothing else is promised from one version to the next.",
        "",
    ]
    seen: set[int] = set()
    for room, names in public_names().items():
        module = importlib.import_module(f"archcost.{room}".rstrip("."))
        out += [f"## {module.__name__}", "", *((module.__doc__ or "").strip().splitlines()[:1]), ""]
        for kind in (False, True):
            for name in sorted(names):
                value = getattr(module, name)
                if isinstance(value, type) is not kind or id(value) in seen:
                    continue
                seen.add(id(value))
                out += [
                    f"### {name}",
                    "",
                    "```{eval-rst}",
                    *_directive(module.__name__, name, value),
                    "```",
                    "",
                ]
    return "\n".join(out)


def _directive(module: str, name: str, value: object) -> list[str]:
    if isinstance(value, type):
        lines = [f".. autoclass:: {module}.{name}"]
        return lines + ["   :no-members:"] * issubclass(value, Exception)
    kind = "autofunction" if callable(value) else "autodata"
    return [f".. {kind}:: {module}.{name}"]


def command_line() -> str:
    """Every command with its options, from argparse."""
    from archcost.cli import _parser

    parser = _parser()
    out = ["# The command line", "", parser.description or "", ""]
    out += ["Exit codes: 0 done, 1 findings, 2 usage or load error, 130 Ctrl-C.", ""]
    for name, command, said in _commands(parser):
        nested = list(_commands(command))
        out += _described(f"## {name}", command, said, options=not nested)
        for inner, action, text in nested:
            out += _described(f"### {name} {inner}", action, text)
    return "\n".join(out)


def _described(head: str, parser: argparse.ArgumentParser, said: str, options: bool = True) -> list[str]:
    """A command: what it does, its usage, and a row for each option."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    out = [head, "", f"{said[:1].upper()}{said[1:]}.", "", "```text", usage, "```", ""]
    rows = [_option(one) for one in parser._actions if one.dest != "help"]
    return [*out, "| | |", "|---|---|", *rows, ""] if options else out


def _commands(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, command, said.get(name, "")


def _option(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if not action.option_strings:
        name = f"`{value}`"
    else:
        name = ", ".join(f"`{one} {value}`".replace(" `", "`") for one in action.option_strings)
    choices = f" One of {', '.join(map(str, action.choices))}." if action.choices else ""
    return f"| {name} | {_cell(action.help or '')}{choices} |"


def columns() -> str:
    """Every column of every table, by the module that defines it."""
    from archcost.report.document import Column

    out = [
        "# Columns",
        "",
        "The names that `columns=`, `--columns` and data formats take, with their meanings.",
        "",
    ]
    seen: set[str] = set()
    for module in _modules():
        found: dict[str, Column] = {}
        for value in vars(module).values():
            group = value if isinstance(value, (tuple, list)) else ()
            for one in group:
                if isinstance(one, Column) and one.meaning and one.name.isidentifier():
                    found.setdefault(one.name, one)
        rows = [_column(one) for one in found.values()]
        if rows and "\n".join(rows) not in seen:
            seen.add("\n".join(rows))
            said = (module.__doc__ or "").strip().splitlines()[0]
            out += [f"## {module.__name__.removeprefix('archcost.')}", "", said, ""]
            out += ["| column | head | unit | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(out)


def rules() -> str:
    """The rewrite rules with their break-evens, and the findings of ``archcost check``."""
    from archcost import rewriting
    from archcost.integrations.checking.codes import CODES

    out = ["# Rules and findings", "", "## Rewrite rules", ""]
    out += ["`archcost propose` and `archcost rewrite` have these ([guide](../rewriting.md)).", ""]
    out += ["| rule | what becomes what | it pays while |", "|---|---|---|"]
    for name in rewriting.available():
        rule = rewriting.get(name)
        out.append(f"| `{name}` | {_cell(rule.change)} | {_cell(rule.break_even)} |")
    out += ["", "## Findings", "", "`archcost check` reports these ([guide](../check.md)).", ""]
    for one in CODES.values():
        when = "" if one.default else ", when selected"
        by = f" Rule `{one.rule}`." if one.rule else ""
        out += [
            f"### {one.code} {one.name}",
            "",
            f"*{one.level}{when}:* {one.meaning}.{by}",
            "",
            one.help,
            "",
        ]
    return "\n".join(out)


SCHEMA = re.compile(r'"(archcost\.[a-z_]+/[0-9]+)"')
SAID = re.compile(r'"""[^"]*?(?:the|The) JSON ([^"]*?)"""', re.DOTALL)


PLAIN = "Tables are lists under their names, with their [columns](columns.md)."


def schemas() -> str:
    """The schemas of the JSON that results become, as the docstrings beside them say."""
    out = ["# JSON schemas", "", "`schema` is the first key of `to_dict`, `to_json` and `--format json`.", ""]
    out += ["A later version may add keys; a changed meaning gets a new number.", ""]
    found: dict[str, str] = {}
    folder = Path(archcost.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        head = text.split('"""')[1] if text.startswith('"""') else ""
        for name in SCHEMA.findall(text.replace(head, "")):
            whole = head.partition("\n\n")[2].strip() if "schema" in head else ""
            said = SAID.search(text)
            short = f"The JSON {' '.join(said[1].split())}" if said else ""
            found[name] = max(whole or short, found.get(name, ""), key=len)
    for name, text in sorted(found.items()):
        out += [f"## {name}", "", re.sub(r"``([^`]*)``", r"`\1`", text or PLAIN), ""]
    return "\n".join(out)


def _modules():
    folder = Path(archcost.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__"):
            with contextlib.suppress(ImportError):  # needs an extra
                yield importlib.import_module(".".join(parts))


def _column(one) -> str:
    return f"| `{one.name}` | {_cell(one.header)} | {_cell(one.unit)} | {_cell(one.meaning)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")
