"""The codes of findings: one table with name, meaning, level and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from archcost.errors import SpecError

__all__ = ["CODES", "LEVELS", "Code", "Level", "explained", "listed", "matching", "selected"]

Level = Literal["note", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From the least to the gravest."""


@dataclass(frozen=True)
class Code:
    """A kind of finding."""

    code: str
    """``AC`` and three digits: 1xx rewrites, 2xx receptive fields, 3xx costs, 4xx measured times."""
    name: str
    meaning: str
    """The finding in one line."""
    help: str
    """Why it matters, when it is reported, and what to do."""
    level: Level = "note"
    rule: str | None = None
    """The rewrite rule that proposes it, from `archcost.rewriting.available()`."""
    default: bool = True
    """Whether it is reported without being selected."""


_APPROXIMATES = (
    "The new layers compute another function and have to be trained, so it is reported only when selected."
)

_TABLE = (
    Code(
        "AC001",
        "unused-ignore",
        "an ignore that no finding needs",
        "The comment or the entry in pyproject.toml hides nothing: the finding is gone, or its code is "
        "misspelled. Remove it.",
    ),
    Code(
        "AC101",
        "small-kernels",
        "a large kernel that a stack of 3x3 replaces with the same receptive field",
        "Two 3x3 see what a 5x5 sees, with 18/25 of its parameters and MACs between as many channels "
        "(Simonyan and Zisserman, 2015). Reported for kernels above 3 between at least 16 channels, where "
        "the MACs saved outweigh the maps written between the layers. The stack has to be trained: archcost "
        "propose SPEC --rules small_kernels shows the sizes.",
        rule="small_kernels",
    ),
    Code(
        "AC102",
        "asymmetric",
        "a KxK convolution as Kx1 and 1xK",
        f"A kernel of low rank separates along its axes (Szegedy et al., 2016). {_APPROXIMATES}",
        rule="asymmetric",
        default=False,
    ),
    Code(
        "AC103",
        "bottleneck",
        "a convolution between two 1x1 with fewer channels",
        f"Channels that depend on each other need no kernel each (He et al., 2016). {_APPROXIMATES}",
        rule="bottleneck",
        default=False,
    ),
    Code(
        "AC104",
        "separable",
        "a convolution as a depthwise and a 1x1 convolution",
        f"Mixing positions and channels apart costs about 1/K^2 (Howard et al., 2017). {_APPROXIMATES}",
        rule="separable",
        default=False,
    ),
    Code(
        "AC105",
        "reduce-first",
        "a large kernel on a wide input in a branch, without a 1x1 before it",
        "Parallel branches over a wide input reduce its channels by a 1x1 first (Szegedy et al., 2015). "
        "Reported where the input has at least twice the channels of the output. To be trained.",
        rule="reduce_first",
    ),
    Code(
        "AC106",
        "pool-first",
        "a convolution on positions that the next layer throws away or averages",
        "Pooling or striding before the convolution gives the same numbers from fewer positions. Reported "
        "only where the result is exactly the same: exchange the two lines, or archcost rewrite does it with "
        "the weights.",
        "warning",
        rule="pool_first",
    ),
    Code(
        "AC107",
        "merge",
        "convolutions with nothing between them that amount to a single one",
        "Linear layers compose: without an activation function between them they can compute no more "
        "than one convolution. Add the activation function that is missing, or merge them, by archcost "
        "rewrite also with their weights. Batch normalisation alone is not reported, as engines fold it, nor "
        "are branches that are summed, which training wants.",
        "warning",
        rule="merge",
    ),
    Code(
        "AC201",
        "unproductive",
        "convolutions whose input already sees the whole image",
        "They add depth but no context at this input size (Richter et al., 2021). Reported from a quarter of "
        "the model's MACs on: use a larger input, fewer or narrower layers there, or less striding before "
        "them.",
    ),
    Code(
        "AC202",
        "misaligned",
        "joined branches that look at different places",
        "The windows of the branches are at least one position apart, as after padding that one of them "
        "lacks: pad both alike, or crop. Upsampling, attention "
        "windows and causal convolutions do not count.",
        "warning",
    ),
    Code(
        "AC203",
        "holes",
        "a window with pixels that no tap reads",
        "Dilated convolutions in a row skip the same pixels (gridding; Wang et al., 2018). Use dilations "
        "without a common factor, or a convolution without dilation behind them.",
        "warning",
    ),
    Code(
        "AC204",
        "beyond-the-map",
        "a kernel larger than its feature map",
        "Some of its taps read nothing but padding at this input size, and their weights are never used: a "
        "smaller kernel computes the same.",
        "warning",
    ),
    Code(
        "AC205",
        "skipped-positions",
        "a stride larger than the kernel, on a map that nothing else reads",
        "Positions of the input between the windows are read by no layer: what they hold was computed in "
        "vain. A pooling before the convolution keeps them, as in ResNet-D (He et al., 2019). Not reported "
        "where another branch reads them, as beside the shortcuts of ResNet.",
    ),
    Code(
        "AC301",
        "budget",
        "a budget in pyproject.toml that the model breaks",
        "The limit is in the table of the model. Make the layers named cheaper, or raise the limit in the "
        "same commit, where the reviewer sees it.",
        "error",
    ),
    Code(
        "AC302",
        "uncounted",
        "an operation that could not be counted",
        "The total of the MACs is a lower bound. A counting rule for the operator is a decorated function: "
        "archcost.rules, docs/counting-rules.md.",
        "warning",
    ),
    Code(
        "AC401",
        "layout",
        "a convolution that was measured to be faster in channels_last",
        "From times that archcost measure took on this machine; none, no finding. "
        "model.to(memory_format=torch.channels_last) changes the whole model; archcost accelerate weighs the "
        "conversions between layers.",
        rule="layout",
    ),
    Code(
        "AC402",
        "path",
        "a convolution that was measured to be faster by another algorithm",
        "From times that archcost measure took on this machine; none, no finding. archcost accelerate makes "
        "one program of the whole model.",
        rule="layout",
    ),
)

CODES: dict[str, Code] = {one.code: one for one in _TABLE}
"""Every code, in order."""


def matching(word: str, where: str = "") -> tuple[str, ...]:
    """The codes that a code, the beginning of one (``AC1``), or a name means.

    Raises:
        SpecError: there is none; ``where`` is put before the message.
    """
    found = tuple(c for c, one in CODES.items() if c.startswith(word) or one.name == word)
    if not word or not found:
        close = get_close_matches(word, [one.name for one in CODES.values()])
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "archcost check --list has them"
        raise SpecError(f"{where}there is no code {word!r}; {hint}")
    return found


def selected(words: Iterable[str] | None, without: Iterable[str] = (), where: str = "") -> tuple[str, ...]:
    """The codes to report: those that the words mean, by default the usual ones, ``without`` others."""
    if words is None:
        chosen = [code for code, one in CODES.items() if one.default]
    else:
        meant = {code for word in words for code in matching(word, where)}
        chosen = [code for code in CODES if code in meant]
    left_out = {code for word in without for code in matching(word, where)}
    return tuple(code for code in chosen if code not in left_out)


def explained(word: str) -> str:
    """The whole text on the codes that a word means."""
    return "\n\n".join(_text(CODES[code]) for code in matching(word))


def listed() -> list[str]:
    """Every code in a line."""
    return [
        f"{one.code}  {one.name:<18} {one.level:<8} {one.meaning}{'' if one.default else ' (when selected)'}"
        for one in CODES.values()
    ]


def _text(one: Code) -> str:
    selected_only = "" if one.default else ", only when selected"
    rule = f"\nRewrite rule: {one.rule}" if one.rule else ""
    return f"{one.code} {one.name} ({one.level}{selected_only}): {one.meaning}\n{one.help}{rule}"
