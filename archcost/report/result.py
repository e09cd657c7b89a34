"""Result: the base class of what archcost returns, to be printed, taken as data and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from archcost.errors import SpecError
from archcost.report.document import Asked, Depth, Document

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text
    from typing_extensions import Unpack

    from archcost.report.data import Path

__all__ = ["Options", "Result"]


class Options(TypedDict, total=False):
    """Options for showing a result, as in `archcost.report.document.Asked`."""

    columns: Iterable[str] | None
    depth: Depth
    sort: str | None
    top: int | None
    by: str | None
    full: bool


class Result(ABC):
    """The base class of results; every format is made from one `Document`.

    All methods take the same options, as far as they apply to the result: ``columns`` (names), ``depth``
    (levels of modules; 0 is the whole model alone), ``sort`` (a column, largest first), ``top`` (the number
    of rows), ``by`` (the name of a table) and ``full`` (with the details). Formats for people (`table`,
    `to_text`, `to_markdown`, `to_latex`, `to_html`, ``print``) begin with what matters most, and
    leave the details out or fold them away; data formats (`to_pandas`, `to_csv`, `to_json`) are complete.

    Raises:
        SpecError: an option has an unknown value; the message names close ones.
    """

    __slots__ = ()

    @abstractmethod
    def document(self, asked: Asked) -> Document:
        """The contents to show, for the options ``asked``."""

    def table(self, width: int | None = None, **options: Unpack[Options]) -> None:
        """Print the tables: in colour and within ``width`` on a terminal, plain and uncut in a pipe."""
        from archcost.report.terminal import show

        show(*self._asked(options), width)

    def to_text(self, width: int | None = None, **options: Unpack[Options]) -> str:
        """The output of `table` as plain text, uncut unless ``width`` is given."""
        from archcost.report.terminal import plain_text

        return plain_text(*self._asked(options), width)

    def to_markdown(self, **options: Unpack[Options]) -> str:
        """The tables as markdown, for a pull request or a README."""
        from archcost.report.markdown import to_markdown

        return to_markdown(*self._asked(options))

    def to_latex(self, path: Path | None = None, **options: Unpack[Options]) -> str | None:
        """The tables in LaTeX, for a paper: the short columns, with the rules of booktabs; or written."""
        from archcost.report.data import write_text
        from archcost.report.latex import to_latex

        return write_text(to_latex(*self._asked(options)), path)

    def to_html(self, path: Path | None = None, **options: Unpack[Options]) -> str | None:
        """The tables as an HTML element, returned; or the whole page, one file with pictures, at ``path``.

        The page opens from disk, asks the network for nothing, and holds the result for
        `archcost.load_result`; it takes no options. An existing file is overwritten.
        """
        from archcost.report.html import to_html

        if path is None:
            return to_html(*self._asked(options))
        from archcost.report.data import write_text
        from archcost.report.page.build import page

        if options:
            raise SpecError(f"to_html: the page shows everything; leave {' and '.join(options)} out")
        return write_text(page(self.document(Asked(full=True)), self, str(path)), path)

    def to_pandas(self, **options: Unpack[Options]) -> pd.DataFrame:
        """The rows of a table as a DataFrame, with every column unless some are named."""
        from archcost.report.data import to_pandas

        return to_pandas(*self._asked(options))

    def to_csv(self, path: Path | None = None, **options: Unpack[Options]) -> str | None:
        """`to_pandas` as CSV, written to ``path`` or returned; text like a formula gets a leading ``'``."""
        from archcost.report.data import to_csv, write_text

        return write_text(to_csv(*self._asked(options)), path)

    def to_json(
        self, path: Path | None = None, indent: int | None = 2, **options: Unpack[Options]
    ) -> str | None:
        """`to_dict` as strict JSON, written to ``path`` or returned."""
        from archcost.report.data import to_json, write_text

        return write_text(to_json(self._asked(options)[0], indent), path)

    def to_dict(self, **options: Unpack[Options]) -> dict[str, Any]:
        """The result as plain values, with name and version of the schema that `document` describes."""
        from archcost.report.data import to_dict

        return to_dict(self._asked(options)[0])

    def save(self, path: Path) -> None:
        """Write the whole result as JSON, for `archcost.load_result`; an existing file is overwritten."""
        from archcost.report.saving import save

        save(self, path)

    def _asked(self, options: Options) -> tuple[Document, Asked]:
        asked = Asked(**options)
        return self.document(asked), asked

    def __str__(self) -> str:
        from archcost.report.terminal import printed

        return printed(self.document(Asked()))

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(self.to_text())

    def _repr_html_(self) -> str:
        """HTML for notebooks: `to_html` with its tables folded below their totals."""
        from archcost.report.html import to_html

        return to_html(self.document(Asked()), Asked(), folded=True)
