"""The one way to the terminal.

Column, class and file names come from strangers' files and may hold anything: escape codes that
move the cursor or set the clipboard, characters that reverse the order of what is read, Rich's
markup. Everything that the commands print goes through here, where it is shown as the text it is.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Where output is no terminal.
WIDTH = 100
# The least width of a column of text.
_TEXT_WIDTH = 12
# Marks of writing direction that change how the rest of a line is read (UAX #9, table 1).
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_ENDS = frozenset("\u2028\u2029")


def visible(text: object, *, lines: bool = True) -> str:
    """``text`` with every character that steers a terminal, or its reader, as a backslash escape.

    Line ends and tabs stay, unless ``lines`` is false: then the result is one line.

    >>> visible("price\\x1b[2J")
    'price\\\\x1b[2J'
    """
    text = str(text)
    if text.isprintable():  # then nothing steers
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or not _steers(c) else _escaped(c) for c in text)


def _steers(char: str) -> bool:
    # Surrogates stand for bytes of a file name that are no UTF-8: they cannot be printed.
    return unicodedata.category(char) in ("Cc", "Cs") or char in _DIRECTION | _LINE_ENDS


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def percent(fraction: float) -> str:
    """A fraction in per cent, with a digit also where it is small.

    >>> percent(0.25), percent(0.00057)
    ('25%', '0.06%')
    """
    return f"{fraction:.0%}" if fraction >= 0.01 or not fraction else f"{100 * fraction:.1g}%"


def figure(value: float) -> str:
    """Four digits, or all before the point: 0.8712, 45,439."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def echo(text: object, *, err: bool = False) -> None:
    """Print text on standard output, or on standard error."""
    write(lambda: click.echo(visible(text), err=err))


def line(text: object, *, err: bool = False) -> None:
    """Print text as one line."""
    write(lambda: click.echo(visible(text, lines=False), err=err))


def write(call: Callable[[], Any]) -> None:
    """Call what prints. A terminal that was closed meanwhile (SIGHUP) ends nothing: whoever prints
    has files to write too."""
    try:
        call()
    except OSError as error:
        if error.errno != errno.EIO:
            raise


# Signs that some encodings lack, as they are written there; others become backslash escapes.
_PLAIN = {"±": "+-", "†": "*", "×": "x", "–": "-", "−": "-", "…": "...", "→": "->"}


def spell_out() -> None:
    """Write characters that the encoding of standard output or standard error lacks as ASCII: for
    one of them no command ends."""

    def spelled(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        chars = error.object[error.start : error.end]
        return "".join(_PLAIN.get(c) or _escaped(c) for c in chars), error.end

    codecs.register_error("nas.ascii", spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nas.ascii")


def is_live(stream: Any) -> bool:
    """Whether a stream is a terminal on which lines can be drawn over."""
    return bool(stream.isatty()) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def let_go() -> None:
    """Give up what could not be printed, so that Python does not try again as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def width(elsewhere: int = WIDTH) -> int:
    """Columns of standard output: the terminal's, or those for ``elsewhere``."""
    if not sys.stdout.isatty():
        return elsewhere
    return int(_console_class()().width)


def text(content: object, style: str = "") -> Text:
    """Text in a style of Rich's."""
    from rich.text import Text

    return Text(visible(content), style)


def console(*, err: bool = False, columns: int | None = None) -> Console:
    """A Rich console that takes every string as plain text; ``text`` gives it styled ones."""
    found: Console = _console_class()(
        file=_Stream(sys.stderr if err else sys.stdout),
        width=columns if columns or err else width(),
        highlight=False,
        emoji=False,
    )
    return found


class _Stream:
    """A stream to which Rich writes as ``write`` does, from its threads too."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        write(lambda: self._stream.write(text))

    def flush(self) -> None:
        write(self._stream.flush)


@cache
def _console_class() -> Any:
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, *, style: Any = "", **more: Any) -> Text:
            found = Text(visible(text), style=style)
            found.justify, found.overflow = more.get("justify"), more.get("overflow")
            return found

    return PlainConsole


def table(
    columns: Sequence[tuple[str, Literal["left", "right"]]],
    rows: Sequence[Sequence[Any] | None],
    *,
    optional: Sequence[str] = (),
    indent: int = 0,
    elsewhere: int = WIDTH,
    **look: Any,
) -> None:
    """Print a table that fits into the terminal: no figure is ever cut, columns are left out.

    Args:
        columns: Heads, and "left" or "right". What stands left may be wrapped, figures not.
        rows: Cells for all columns; None for a rule between rows.
        optional: Heads of the columns that may be left out, the first one first.
        indent: Columns of space before the table.
        elsewhere: Columns that there are where output is no terminal.
        **look: Arguments of Rich's ``Table``.
    """
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.table import Table

    room = width(elsewhere) - indent
    endless = console(columns=10_000)
    shown = [head for head, _ in columns]

    def build(shown: Sequence[str]) -> Table:
        found = Table(**look)
        for head, justify in columns:
            if head in shown:
                figures = justify == "right"
                found.add_column(head, justify=justify, no_wrap=figures, overflow="fold")
        for row in rows:
            if row is None:
                found.add_section()
                continue
            cells = zip(columns, row, strict=False)
            found.add_row(*(cell for (head, _), cell in cells if head in shown))
        return found

    made = build(shown)
    for head in optional:
        if Measurement.get(endless, endless.options, made).maximum <= room:
            break
        if head in shown:
            shown.remove(head)
            made = build(shown)
    # A terminal that is narrower still breaks the lines itself.
    figures = [head for head, justify in columns if head in shown and justify == "right"]
    needed = Measurement.get(endless, endless.options, build(figures)).maximum if figures else 0
    needed += indent + _TEXT_WIDTH * (len(shown) - len(figures))
    console(columns=max(width(elsewhere), needed)).print(
        Padding(made, (0, 0, 0, indent), expand=False)
    )
